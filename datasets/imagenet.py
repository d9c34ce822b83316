"""ImageNet: 1,000 kinds of things (Russakovsky et al., 2015)."""

from __future__ import annotations

import logging
from typing import Any

from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.toolkit import DATASET_REGISTRY, DatasetBase
from datasets._check import published_label
from datasets._few_shot import few_shot, left_for_validation
from datasets._imagenet import IMAGENET, class_table, numbered
from datasets._listing import list_classes
from datasets._root import data_root

_LOG = logging.getLogger("cpt_plugin")


@DATASET_REGISTRY.register()
class ImageNet(DatasetBase):
    """ImageNet in CoOp's layout, ``imagenet/images/{train,val}/<WordNet id>/``, with CLIP's class names.

    The official validation images are the test set and, as in CoOp, the validation set too. Where something is chosen
    on validation images, or said of them (``TEST.FINAL_MODEL best_val``, ``TEST.SPLIT val``), up to 4 training images
    of each class that the few-shot draw leaves are the validation set instead. Files are taken in the order of their
    names (CoOp takes them as the file system gives them), so the few-shot draw is the same everywhere. The folders are
    listed anew each time; CoOp's pickled lists are never read.

    Raises:
        DataError: a class folder is missing, empty or unknown.
    """

    def __init__(self, cfg: Any) -> None:
        manifest, root = manifest_of(IMAGENET), data_root(cfg)
        refuse_misplaced(manifest, root)
        folder = root / manifest.folder / "images"
        self.dataset_dir = str(root / manifest.folder)
        table = class_table(root, manifest.folder)
        train, test = (list_classes(folder / part, numbered(table, table)) for part in ("train", "val"))
        self.split_label = published_label(manifest, (train, test, test), cfg)
        chosen = cfg.TEST.FINAL_MODEL == "best_val" or cfg.TEST.SPLIT == "val"
        val = left_for_validation(train, cfg) if chosen else None
        train, _, test = few_shot(train, [], test, cfg)
        if val is not None:
            _LOG.info(f"ImageNet's own validation images are its test images: {_where_from(val)}")
        super().__init__(train_x=train, val=test if val is None else val, test=test)


def _where_from(val: list[Any]) -> str:
    if not val:
        return "with all training images trained on (DATASET.NUM_SHOTS below 1) none are left for validation"
    return f"{len(val):,} training images that the few-shot draw leaves are the validation images"
