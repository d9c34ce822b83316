"""ImageNet-R: art, toys and other renditions of 200 ImageNet classes (Hendrycks et al., 2021)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._imagenet import ImageNetSubset


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetSubset):
    """Renditions; test only, with labels of its own."""

    manifest_name = "imagenet_r"
