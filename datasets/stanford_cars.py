"""Stanford Cars: 196 models of cars (Krause et al., 2013)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._own_split import Named, matlab
from datasets._split import SplitDataset


@DATASET_REGISTRY.register()
class StanfordCars(SplitDataset):
    """Stanford Cars with CoOp's split: the official one, a fifth of its training images for validation."""

    def official_lists(self) -> tuple[list[Named], list[Named]] | None:
        """The official split; without its lists nothing says which car an image shows."""
        meta = self.needed("devkit/cars_meta.mat")
        try:
            names = [year_first(str(name)) for name in np.atleast_1d(matlab(meta)["class_names"])]
            train = self._listed("devkit/cars_train_annos.mat", "cars_train", names)
            test = self._listed("cars_test_annos_withlabels.mat", "cars_test", names)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"the lists in {self.folder} are damaged ({error!r}): get them again") from error
        return train, test

    def _listed(self, file: str, folder: str, names: list[str]) -> list[Named]:
        entries: Any = np.atleast_1d(matlab(self.needed(file))["annotations"])
        if "class" not in (entries.dtype.names or ()):
            raise DataError(
                f"{self.folder / file} has no classes: it is a list without labels, such as the devkit's "
                f"cars_test_annos.mat; get the one with labels from {self.source_of(file)}"
            )
        return [(f"{folder}/{entry['fname']}", names[int(entry["class"]) - 1]) for entry in entries]


def year_first(name: str) -> str:
    """``Acura TL Sedan 2012`` -> ``2012 Acura TL Sedan``, as CoOp says it."""
    model, _, year = name.rpartition(" ")
    return f"{year} {model}"
