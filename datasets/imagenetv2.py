"""ImageNetV2: ImageNet's classes, photographed anew (Recht et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from cpt_plugin.data.imagenet import imagenet_classes
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._imagenet import Classes, ImageNetVariant, numbered


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    """The matched-frequency images; test only. Its folders are called by ImageNet's labels, 0 to 999."""

    manifest_name = "imagenetv2"

    def classes(self, table: Mapping[str, str]) -> Classes:
        folders = {wordnet_id: str(label) for label, wordnet_id in enumerate(imagenet_classes())}
        return {folders[wordnet_id]: known for wordnet_id, known in numbered(table, table).items()}
