"""Oxford-IIIT Pet: 37 breeds of cats and dogs (Parkhi et al., 2012)."""

from __future__ import annotations

from pathlib import PurePosixPath

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._own_split import Named, lines_of
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    """Oxford-IIIT Pet with CoOp's split: the official one, a fifth of its training images for validation."""

    def class_of(self, path: PurePosixPath) -> str:
        """``Egyptian_Mau_17.jpg`` -> ``egyptian_mau``."""
        breed, _, number = path.stem.rpartition("_")
        if not breed or not number.isdecimal():
            raise DataError(f"{self.base / path} is not named after its breed, as Egyptian_Mau_17.jpg is: remove it")
        return breed.lower()

    def official_lists(self) -> tuple[list[Named], list[Named]] | None:
        """The official split, where its two lists are there."""
        files = [self.folder / "annotations" / name for name in ("trainval.txt", "test.txt")]
        if not all(file.is_file() for file in files):
            return None
        paths = [[PurePosixPath(f"{line.split()[0]}.jpg") for line in lines_of(file)] for file in files]
        train, test = ([(str(path), self.class_of(path)) for path in part] for part in paths)
        return train, test
