"""The embedded data set: a drawn world, rendered below the data folder on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import DATASET_REGISTRY, DatasetBase, Datum
from cpt_plugin.worlds import parse_world
from datasets._few_shot import few_shot
from datasets._root import data_root
from datasets.shapes_world.store import content_hash, ensure_world, read_split


@DATASET_REGISTRY.register()
class Shapes(DatasetBase):
    """One drawn world: ``DATASET.WORLD`` is ``CLASSSET[:DOMAIN]``, empty for the default.

    Attributes:
        content_hash: SHA-256 of all pixels of the world; the split hash depends on it.

    Raises:
        ConfigError: the world is unknown, or another split than the drawn one is asked for.
        DataError: its folder is damaged or cannot be written, or an image in it was changed.
    """

    def __init__(self, cfg: Any) -> None:
        if cfg.DATASET.SPLIT != "published":
            raise ConfigError(f"DATASET.SPLIT {cfg.DATASET.SPLIT}: this world has one split, so leave it at published")
        self.world = parse_world(cfg.DATASET.WORLD)
        self.dataset_dir = str(ensure_world(data_root(cfg), self.world))
        folder = Path(self.dataset_dir)
        self.content_hash = content_hash(folder)
        train, val, test = (
            [
                Datum(impath=str(folder / path), label=label, domain=0, classname=name)
                for path, label, name in rows
            ]
            for rows in read_split(folder).values()
        )
        train, val, test = few_shot(train, val, test, cfg)
        super().__init__(train_x=train, val=val, test=test)
