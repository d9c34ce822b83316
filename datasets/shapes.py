"""The embedded data set: a drawn world, rendered below the data folder on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpt_plugin.toolkit import DATASET_REGISTRY, DatasetBase, Datum
from datasets._few_shot import few_shot
from datasets.shapes_world.store import ensure_world, read_split
from datasets.shapes_world.worlds import parse_world


@DATASET_REGISTRY.register()
class Shapes(DatasetBase):
    """One drawn world: ``DATASET.WORLD`` is ``CLASSSET[:DOMAIN]``, empty for the default.

    Raises:
        ConfigError: the world is unknown.
        DataError: its folder is damaged or cannot be written.
    """

    def __init__(self, cfg: Any) -> None:
        self.world = parse_world(cfg.DATASET.WORLD)
        self.dataset_dir = str(ensure_world(Path(cfg.DATASET.ROOT).expanduser().absolute(), self.world))
        folder = Path(self.dataset_dir)
        train, val, test = (
            [
                Datum(impath=str(folder / path), label=label, domain=0, classname=name)
                for path, label, name in rows
            ]
            for rows in read_split(folder).values()
        )
        train, val, test = few_shot(train, val, test, cfg)
        super().__init__(train_x=train, val=val, test=test)
