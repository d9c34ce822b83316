"""Data sets that come with a long tail of their own, and lists of images in text files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from cpt_plugin._names import some
from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.results.groups import LONG_TAILED_BANDS
from cpt_plugin.toolkit import DatasetBase, present_items, subsample_classes
from cpt_plugin.toolkit.embedded.data import Datum
from datasets._check import published_label
from datasets._root import data_root

ClassOf = Callable[[str], "tuple[int, str] | None"]
"""Class folder -> label and name; None for a folder of no class."""


class LongTailed(DatasetBase):
    """All images of lists that somebody published, class by class as unequal as they are.

    Attributes:
        bands: many / medium / few as the field counts them on such data: above 100, 20 to 100, below 20 training
            images a class; reported at every evaluation.

    Raises:
        ConfigError: images a class or another long tail are asked for on top.
        DataError: a list is missing or damaged, or an image does not exist.
    """

    bands = LONG_TAILED_BANDS
    manifest_name: ClassVar[str]

    def __init__(self, cfg: Any) -> None:
        manifest, root = manifest_of(self.manifest_name), data_root(cfg)
        self.dataset_dir = str(root / manifest.folder)
        refuse_few_shots(cfg)
        if cfg.DATASET.IMBALANCE_TAU != 1:
            raise ConfigError(
                f"{manifest.registered} has a long tail of its own: leave DATASET.IMBALANCE_TAU at 1, not "
                f"{cfg.DATASET.IMBALANCE_TAU:g}"
            )
        refuse_misplaced(manifest, root)
        parts = self.read(root)
        self.split_label = published_label(manifest, parts, cfg)
        train, val, test = subsample_classes(*parts, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    def read(self, root: Path) -> list[list[Datum]]:
        """The whole train, val and test."""
        raise NotImplementedError


def refuse_few_shots(cfg: Any) -> None:
    """Raise ConfigError where a number of images a class is asked for."""
    if cfg.DATASET.NUM_SHOTS >= 1:
        raise ConfigError(
            f"{cfg.DATASET.NAME} is long-tailed as it is: set DATASET.NUM_SHOTS -1, not {cfg.DATASET.NUM_SHOTS}"
        )


def read_lists(lists: Sequence[Path], images: Path, class_of: ClassOf) -> list[list[Datum]]:
    """The images of text files with a line ``train/CLASS_FOLDER/FILE LABEL`` for each.

    Args:
        lists: the files.
        images: the folder that paths count from.
        class_of: label and name of a class folder. A label in a list that differs from it is an error, so names and
            labels cannot drift apart.

    Raises:
        DataError: a file cannot be read, its lines are malformed or contradict ``class_of`` (named by number), or an
            image does not exist.
    """
    return present_items([_read_list(path, class_of) for path in lists], images, lists[0].parent)


def _read_list(path: Path, class_of: ClassOf) -> list[tuple[str, int, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path} ({error}); get it again") from error
    rows, wrong = [], []
    for number, line in enumerate(lines, start=1):
        match line.split():
            case [relative, label] if label.isdecimal() and len(parts := PurePosixPath(relative).parts) > 2:
                known = class_of(parts[-2])
                if known is not None and known[0] == int(label) and parts[0] != "/" and ".." not in parts:
                    rows.append((relative, *known))
                    continue
        wrong.append(f"line {number}: {line!r}")
    if wrong or not rows:
        raise DataError(
            f"{path} must hold lines 'train/CLASS_FOLDER/FILE LABEL' with the label of that folder, but has "
            f"{some(wrong)}; get it again"
        )
    return rows
