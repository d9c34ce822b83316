"""ImageNet-Sketch: drawings of ImageNet's classes (Wang et al., 2019)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._imagenet import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetVariant):
    """Sketches of the 1,000 classes; test only."""

    manifest_name = "imagenet_sketch"
