"""ImageNet-LT: a long-tailed subset of ImageNet (Liu et al., 2019)."""

from __future__ import annotations

from pathlib import Path

from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.toolkit import DATASET_REGISTRY
from cpt_plugin.toolkit.embedded.data import Datum
from datasets._imagenet import IMAGENET, class_table, numbered
from datasets._long_tailed import LongTailed, read_lists


@DATASET_REGISTRY.register()
class ImageNetLT(LongTailed):
    """The published lists over ImageNet's own images: 5 to 1,280 training images a class; tests are balanced."""

    manifest_name = "imagenet_lt"

    def read(self, root: Path) -> list[list[Datum]]:
        table = class_table(root, IMAGENET)
        folder = root / IMAGENET
        lists = [folder / manifest_of(self.manifest_name).lists[part] for part in PARTS]
        return read_lists(lists, folder / "images", numbered(table, table).get)
