"""Data sets in the field's layout: an image folder and a ``split_zhou_*.json`` beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from cpt_plugin.toolkit import DatasetBase, read_split
from datasets._few_shot import few_shot


class SplitDataset(DatasetBase):
    """Few-shot lists drawn from a published split file; a subclass only names its folders.

    Raises:
        DataError: the split file or an image is missing (path, and where to get it).
    """

    dataset_dir: ClassVar[str]
    image_dir: ClassVar[str]
    split_file: ClassVar[str]

    def __init__(self, cfg: Any) -> None:
        folder = Path(cfg.DATASET.ROOT).expanduser().absolute() / self.dataset_dir
        parts = read_split(folder / self.split_file, folder / self.image_dir)
        train, val, test = few_shot(*parts, cfg)
        super().__init__(train_x=train, val=val, test=test)
