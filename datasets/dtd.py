"""Describable Textures, DTD: textures of 47 kinds (Cimpoi et al., 2014)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class DescribableTextures(SplitDataset):
    """DTD with CoOp's split, which is none of the ten official ones."""
