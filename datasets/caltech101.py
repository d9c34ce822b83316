"""Caltech101: objects of 100 kinds (Fei-Fei et al., 2004)."""

from __future__ import annotations

from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class Caltech101(SplitDataset):
    """Caltech101 without its background and second set of faces, as CoOp uses it."""

    ignored = frozenset({"BACKGROUND_Google", "Faces_easy"})
    renamed = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}  # noqa: RUF012
