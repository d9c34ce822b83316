"""UCF101: human actions of 101 kinds, the middle frame of each video (Soomro et al., 2012)."""

from __future__ import annotations

import re

from cpt_plugin._names import some
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._own_split import Named
from datasets._split import SplitDataset

LAST_TEST_GROUP = 7
"""Videos are numbered in 25 groups that share scene and actor; the first official split tests on the first seven."""


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    """UCF101 with CoOp's split: the first official one, a fifth of its training videos for validation."""

    def official_lists(self) -> tuple[list[Named], list[Named]] | None:
        """The first official split, read off the groups in the file names (``..._g07_c01.jpg``).

        Raises:
            DataError: names without a group; frames of one scene would both train and test.
        """
        images = self.images()
        groups = {path: re.search(r"_g(\d+)_c\d+\.\w+$", path) for path, _ in images}
        without = sorted(path for path, group in groups.items() if group is None)
        if without:
            raise DataError(
                f"{len(without)} of {len(images)} frames in {self.base} have no video group in their names, as "
                f"v_Archery_g07_c01.jpg has: {some(without)}. The own split is the first official one, which tests on "
                f"groups 1 to {LAST_TEST_GROUP}, so that no scene both trains and tests. Name the frames as their "
                "videos, or give them as images of your own (docs/custom-data.md)"
            )
        tests = {path for path, group in groups.items() if group and int(group[1]) <= LAST_TEST_GROUP}
        train = [image for image in images if image[0] not in tests]
        return train, [image for image in images if image[0] in tests]
