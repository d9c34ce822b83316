"""Places-LT: a long-tailed subset of Places365 (Liu et al., 2019)."""

from __future__ import annotations

import re
from pathlib import Path

from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.toolkit import DATASET_REGISTRY
from cpt_plugin.toolkit.embedded.data import Datum
from datasets._long_tailed import LongTailed, read_lists


@DATASET_REGISTRY.register()
class PlacesLT(LongTailed):
    """The published lists over Places365's small images: 5 to 4,980 training images a class; tests are balanced.

    A class is called as its folder, with - and _ read as spaces: ``apartment_building-outdoor`` is "apartment
    building outdoor".
    """

    manifest_name = "places_lt"

    def read(self, root: Path) -> list[list[Datum]]:
        manifest = manifest_of(self.manifest_name)
        labels = {name: label for label, name in enumerate(manifest.class_names.names)}

        def class_of(folder: str) -> tuple[int, str] | None:
            name = re.sub("[-_]+", " ", folder)
            return (labels[name], name) if name in labels else None

        folder = root / manifest.folder
        return read_lists([folder / manifest.lists[part] for part in PARTS], folder, class_of)
