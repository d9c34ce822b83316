"""UCF101: human actions of 101 kinds, the middle frame of each video (Soomro et al., 2012)."""

from __future__ import annotations

import re

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._own_split import Named
from datasets._split import SplitDataset

LAST_TEST_GROUP = 7
"""Videos are numbered in 25 groups that share scene and actor; the first official split tests on the first seven."""


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    """UCF101 with CoOp's split: the first official one, a fifth of its training videos for validation."""

    def official_lists(self) -> tuple[list[Named], list[Named]] | None:
        """The first official split, read off the groups in the file names (``..._g07_c01.jpg``)."""
        train: list[Named] = []
        test: list[Named] = []
        for path, name in self.images():
            group = re.search(r"_g(\d+)_c\d+\.\w+$", path)
            (test if group and int(group[1]) <= LAST_TEST_GROUP else train).append((path, name))
        return train, test
