"""Oxford 102 Flower: flowers of 102 kinds (Nilsback and Zisserman, 2008)."""

from __future__ import annotations

import json

import numpy as np

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._own_split import Named, matlab
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitDataset):
    """Oxford 102 Flower with CoOp's split, which divides the official parts anew."""

    def images(self) -> list[Named]:
        """All images, their classes from ``imagelabels.mat`` and ``cat_to_name.json``."""
        labels, names = self.needed("imagelabels.mat"), self.needed("cat_to_name.json")
        try:
            by_number = json.loads(names.read_text(encoding="utf-8"))
            numbers = np.atleast_1d(matlab(labels)["labels"])
            return [(f"image_{i:05d}.jpg", by_number[str(int(number))]) for i, number in enumerate(numbers, 1)]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{labels} or {names} is damaged ({error!r}): get them again") from error
