"""FGVC-Aircraft: aircraft of 100 variants (Maji et al., 2013)."""

from __future__ import annotations

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DATASET_REGISTRY, present_items
from datasets._own_split import lines_of
from datasets._split import Parts, SplitDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(SplitDataset):
    """FGVC-Aircraft with its official split into variants; there is no other split file."""

    def published_split(self) -> Parts:
        """The official lists: ``variants.txt`` and ``images_variant_{train,val,test}.txt``."""
        label = {name: position for position, name in enumerate(lines_of(self.needed("variants.txt")))}
        parts = []
        for part in ("train", "val", "test"):
            file = self.needed(self.manifest.lists[part])
            pairs = [line.partition(" ")[::2] for line in lines_of(file)]
            unknown = [name for _, name in pairs if name not in label]
            if unknown:
                raise DataError(f"{file} names {unknown[0]!r}, which variants.txt does not: get both again")
            parts.append([(f"{image}.jpg", label[name], name) for image, name in pairs])
        train, val, test = present_items(parts, self.base, self.folder / "images_variant_*.txt")
        return train, val, test
