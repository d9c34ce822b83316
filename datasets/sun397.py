"""SUN397: scenes of 397 kinds (Xiao et al., 2010)."""

from __future__ import annotations

from pathlib import PurePosixPath

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._own_split import Named, lines_of
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class SUN397(SplitDataset):
    """SUN397 with CoOp's split, made from the first official partition."""

    def class_of(self, path: PurePosixPath) -> str:
        """``b/balcony/exterior/x.jpg`` -> ``exterior balcony``: the letter goes, the kind of place comes first."""
        if len(path.parent.parts) < 2:
            raise DataError(f"{self.base / path} is not in LETTER/PLACE/: unpack the data set again, or remove it")
        return " ".join(reversed(path.parent.parts[1:]))

    def official_lists(self) -> tuple[list[Named], list[Named]] | None:
        """The first official partition, where its two lists are there."""
        files = [self.folder / name for name in ("Training_01.txt", "Testing_01.txt")]
        if not all(file.is_file() for file in files):
            return None
        paths = [[PurePosixPath(line.lstrip("/")) for line in lines_of(file)] for file in files]
        train, test = ([(str(path), self.class_of(path)) for path in part] for part in paths)
        return train, test
