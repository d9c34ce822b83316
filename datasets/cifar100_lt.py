"""CIFAR-100-LT: CIFAR-100 with an exponentially shrinking training set (Cao et al., 2019)."""

from __future__ import annotations

import random
from typing import Any

from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.results.groups import LONG_TAILED_BANDS
from cpt_plugin.toolkit import DATASET_REGISTRY, DatasetBase, subsample_classes
from cpt_plugin.toolkit.embedded.data import Datum
from datasets._check import published_label
from datasets._cifar import check_images, class_names, ensure_images
from datasets._listing import list_classes
from datasets._long_tailed import refuse_few_shots
from datasets._root import data_root


@DATASET_REGISTRY.register()
class CIFAR100LT(DatasetBase):
    """CIFAR-100's official files; the engine's long tail cuts the training images.

    Of class k the first floor(500 * tau^(k / 99)) images are kept, tau = ``DATASET.IMBALANCE_TAU`` being 1 / imbalance
    ratio, in an order of our own that ``DATASET.SPLIT_SEED`` shuffles once, whatever the training seed: a smaller tau
    keeps a part of what a larger one keeps. There are no validation images.

    Attributes:
        bands: many / medium / few: above 100, 20 to 100, below 20 training images a class.

    Raises:
        ConfigError: a number of images a class is asked for.
        DataError: the files are missing or damaged, or the images written from them were changed.
    """

    bands = LONG_TAILED_BANDS

    def __init__(self, cfg: Any) -> None:
        manifest = manifest_of("cifar100_lt")
        folder = data_root(cfg) / manifest.folder
        self.dataset_dir = str(folder)
        refuse_few_shots(cfg)
        refuse_misplaced(manifest, data_root(cfg))
        names = class_names(folder)
        classes = {str(label): (label, name) for label, name in enumerate(names)}
        images = ensure_images(folder, names)
        train, test = (list_classes(images / part, classes) for part in ("train", "test"))
        for part, items in (("train", train), ("test", test)):
            check_images(images, part, len(items))
        self.split_label = published_label(manifest, (train, [], test), cfg)
        train = shuffled_by_class(train, cfg.DATASET.SPLIT_SEED)
        train, test = subsample_classes(train, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, test=test)


def shuffled_by_class(items: list[Datum], seed: int) -> list[Datum]:
    """Class after class, each in an order that depends on the seed and the label alone."""
    by_label: dict[int, list[Datum]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    for label, members in by_label.items():
        random.Random(f"CIFAR-100-LT {seed}: {label}").shuffle(members)
    return [item for label in sorted(by_label) for item in by_label[label]]
