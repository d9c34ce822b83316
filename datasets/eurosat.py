"""EuroSAT: ten kinds of land use seen by a satellite (Helber et al., 2019)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class EuroSAT(SplitDataset):
    """EuroSAT's RGB images with CoOp's split and class names."""

    dataset_dir = "eurosat"
    image_dir = "2750"
    split_file = "split_zhou_EuroSAT.json"
