"""The embedded data set: a drawn world, rendered below the data folder on first use."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cpt_plugin.toolkit import DATASET_REGISTRY, DatasetBase, Datum, subsample_classes
from cpt_plugin.toolkit.embedded.data import generate_fewshot_dataset
from datasets.shapes_world.store import ensure_world, read_split
from datasets.shapes_world.worlds import parse_world

VALIDATION_SHOTS = 4


@DATASET_REGISTRY.register()
class Shapes(DatasetBase):
    """One drawn world: ``DATASET.WORLD`` is ``CLASSSET[:DOMAIN]``, empty for the default.

    Few-shot items are drawn with ``random.Random(SEED)``, train then val, over all classes, before the base or
    new half is selected; ``NUM_SHOTS`` below 1 keeps the whole pool.

    Raises:
        ConfigError: the world is unknown.
        DataError: its folder is damaged or cannot be written.
    """

    def __init__(self, cfg: Any) -> None:
        self.world = parse_world(cfg.DATASET.WORLD)
        self.dataset_dir = str(ensure_world(Path(cfg.DATASET.ROOT).expanduser().absolute(), self.world))
        folder = Path(self.dataset_dir)
        train, val, test = (
            [Datum(impath=str(folder / path), label=label, domain=0, classname=name) for path, label, name in rows]
            for rows in read_split(folder).values()
        )
        shots = cfg.DATASET.NUM_SHOTS
        if shots >= 1:
            draw = random.Random(cfg.SEED)
            train = generate_fewshot_dataset(train, num_shots=shots, rng=draw)
            val = generate_fewshot_dataset(val, num_shots=min(shots, VALIDATION_SHOTS), rng=draw)
        train, val, test = subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)
