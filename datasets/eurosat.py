"""EuroSAT: ten kinds of land use seen by a satellite (Helber et al., 2019)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class EuroSAT(SplitDataset):
    """EuroSAT's RGB images with CoOp's split and class names."""

    renamed = {  # noqa: RUF012
        "AnnualCrop": "Annual Crop Land",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "SeaLake": "Sea or Lake",
    }
