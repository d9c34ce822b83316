"""Which images and classes an evaluation has: what is missing is said before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpt_plugin._names import some
from cpt_plugin.errors import DataError

_TESTED = {
    "test": ("test", "complete the data set"),
    "val": ("validation", "complete the data set, or evaluate its test images (TEST.SPLIT test)"),
}
"""By the part that is evaluated: what it is called, and what to do where it has no images."""


@dataclass(frozen=True)
class Contents:
    """Names of the classes in label order, and by label the images that train and test.

    untested: names of classes that are known to have no image to be tested with, and were said to; tested_part: of the
    data set, test or val.
    """

    names: tuple[str, ...]
    train: Mapping[int, int]
    test: Mapping[int, int]
    untested: frozenset[str] = frozenset()
    tested_part: str = "test"

    @classmethod
    def of(cls, cfg: Any) -> Contents:
        """The data set of a configuration, read now.

        Raises:
            CPTError: what reading it raises.
        """
        from cpt_plugin.toolkit import build_dataset

        return cls.of_dataset(build_dataset(cfg), cfg)

    @classmethod
    def of_dataset(cls, dataset: Any, cfg: Any) -> Contents:
        """A data set that is there, evaluated as a configuration says."""
        tested_part = "val" if cfg.TEST.SPLIT == "val" else "test"
        parts = dataset.train_x, getattr(dataset, tested_part)
        train, test = (Counter(item.label for item in part or ()) for part in parts)
        spared: frozenset[str] = getattr(dataset, "unvalidated" if tested_part == "val" else "untested", frozenset())
        return cls(tuple(dataset.classnames), train, test, spared, tested_part)

    def check(self, dataset: str, classes: str, trained: bool, tested: bool) -> None:
        """Raise DataError where a part that is used has no images, or not of every class.

        Args:
            dataset: its name, for the message.
            classes: which of its classes these are: base, new or all.
            trained: whether they are trained on.
            tested: whether they are evaluated.
        """
        tested_part, untestable = _TESTED[self.tested_part]
        for part, images, used in (("training", self.train, trained), (tested_part, self.test, tested)):
            if not used:
                continue
            if not images:
                remedy = "it can only be evaluated (--eval-only)" if part == "training" else untestable
                of = "" if classes == "all" else f" of {classes} classes"
                raise DataError(f"{dataset} has no {part} images{of}; {remedy}")
            spared = frozenset() if part == "training" else self.untested
            absent = [name for label, name in enumerate(self.names) if not images.get(label) and name not in spared]
            if absent:
                kind = "" if classes == "all" else f"{classes} "
                them = "this class" if len(absent) == 1 else "these classes"
                raise DataError(
                    f"{dataset} has no {part} image of {len(absent)} of its {len(self.names)} {kind}classes: "
                    f"{some(list(map(repr, absent)))}; complete the data set, or leave {them} out"
                )
