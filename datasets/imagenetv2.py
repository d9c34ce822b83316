"""ImageNetV2: ImageNet's classes, photographed anew (Recht et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._imagenet import Classes, ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    """The matched-frequency images; test only. Its folders are called by label, 0 to 999, not by WordNet id."""

    manifest_name = "imagenetv2"

    def classes(self, table: Mapping[str, str]) -> Classes:
        return {str(label): (label, name) for label, name in enumerate(table.values())}
