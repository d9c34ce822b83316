"""Food-101: dishes of 101 kinds (Bossard et al., 2014)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class Food101(SplitDataset):
    """Food-101 with CoOp's split, which divides the official training and test images anew."""
