"""What ImageNet and its four variants share: class names by WordNet id, and test sets without training images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from cpt_plugin._names import some
from cpt_plugin.data.imagenet import CLASSNAMES_FILE, imagenet_classes, read_classnames, subset_ids
from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import NAME as TOOLKIT
from cpt_plugin.toolkit import DatasetBase
from datasets._check import published_label
from datasets._few_shot import few_shot
from datasets._listing import list_classes
from datasets._root import data_root

IMAGENET = "imagenet"
_LOG = logging.getLogger("cpt_plugin")

Classes = Mapping[str, tuple[int, str]]
"""Class folder -> label and name."""


def class_table(root: Path, folder: str) -> dict[str, str]:
    """Names by WordNet id, in label order: those of CoOp's ``classnames.txt`` where there is one, else built in.

    The file is looked for in the data set's folder, then in ImageNet's. It also says which classes there are, so a
    subset of ImageNet needs nothing but a shorter file. Names that differ from CLIP's are used and logged.

    Raises:
        DataError: the file is damaged.
    """
    for path in (root / folder / CLASSNAMES_FILE, root / IMAGENET / CLASSNAMES_FILE):
        if path.is_file():
            table, known = read_classnames(path), imagenet_classes()
            other = [f"{i} {name!r} (CLIP: {known[i]!r})" for i, name in table.items() if name != known[i]]
            if other:
                _LOG.warning(
                    f"{path} has other names than CLIP for {len(other):,} classes, and they are used: {some(other)}"
                )
            if len(table) < len(known):
                _LOG.warning(f"{path} lists {len(table):,} of ImageNet's {len(known):,} classes: a subset is used")
            return table
    return dict(imagenet_classes())


def numbered(ids: Iterable[str], table: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Labels from 0 in the order of the ids, for those that the table has."""
    return {wordnet_id: (label, table[wordnet_id]) for label, wordnet_id in enumerate(i for i in ids if i in table)}


class ImageNetVariant(DatasetBase):
    """Test images only, for the evaluation of what was trained on ImageNet (``train.py --eval-only``).

    Real Dassl takes the classes from the training images, so there the test images stand in for them, as in CoOp;
    in the embedded engine there are none, and training is refused.

    Raises:
        DataError: a class folder is missing, empty or unknown.
        ConfigError: base or new classes are asked for where ImageNet's halves have no meaning.
    """

    manifest_name: ClassVar[str]
    halves: ClassVar[bool] = True

    def __init__(self, cfg: Any) -> None:
        if not self.halves and cfg.DATASET.SUBSAMPLE_CLASSES != "all":
            raise ConfigError(
                f"{type(self).__name__} has 200 classes of its own, which base and new halves do not fit: "
                "set DATASET.SUBSAMPLE_CLASSES all"
            )
        manifest, root = manifest_of(self.manifest_name), data_root(cfg)
        refuse_misplaced(manifest, root)
        self.dataset_dir = str(root / manifest.folder)
        classes = self.classes(class_table(root, manifest.folder))
        test = list_classes(root / manifest.folder / manifest.images[0], classes)
        self.split_label = published_label(manifest, ([], [], test), cfg)
        test = few_shot([], [], test, cfg)[2]
        super().__init__(train_x=test if TOOLKIT == "dassl" else [], test=test)

    def classes(self, table: Mapping[str, str]) -> Classes:
        """Label and name of each class folder: here one for each WordNet id of the table."""
        return numbered(table, table)


class ImageNetSubset(ImageNetVariant):
    """A variant with 200 of ImageNet's classes, labelled 0 to 199 in the order of their WordNet ids."""

    halves = False

    def classes(self, table: Mapping[str, str]) -> Classes:
        return numbered(subset_ids(self.manifest_name), table)
