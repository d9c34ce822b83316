"""What data sets of a person's own share: checks of every image, splits, labels by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from PIL import Image

from cpt_plugin._names import some
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import DatasetBase, present_items
from cpt_plugin.toolkit.embedded.loader import refuse_deep
from datasets._few_shot import few_shot
from datasets._own_split import divide, number

_NEEDED = ("train", "test")


class Row(NamedTuple):
    """An image: path below the folder, class name, and its part ("" where it is to be drawn)."""

    path: str
    classname: str
    part: str = ""


class CustomDataset(DatasetBase):
    """Images that somebody labelled; few-shot, base and new classes and the long tail as for any data set.

    Labels follow the class names in alphabetical order. Images that are not divided yet are divided by
    ``DATASET.SPLIT_SEED``: of every class the share ``DATASET.SHARES[0]`` trains, ``SHARES[1]`` validates, the rest
    tests, at least one image each. The same images and seed give the same split on every machine, and the split hash
    of a record tells whether two runs had the same.

    Raises:
        DataError: an image cannot be read or lies outside the folder; two classes have the same name; a class has
            too few images for its parts.
    """

    def __init__(self, cfg: Any) -> None:
        folder, rows, source = self.find(cfg)
        self.dataset_dir = str(folder)
        check_names(rows, source)
        check_files(folder, rows)
        if rows and rows[0].part:
            parts = [[(row.path, row.classname) for row in rows if row.part == part] for part in PARTS]
            check_parts(parts, source)
        else:
            parts = split_of(rows, cfg.DATASET.SHARES, cfg.DATASET.SPLIT_SEED, source)
        items = present_items(list(number(parts, ()).values()), folder, source)
        train, val, test = few_shot(items[0], items[1], items[2], cfg)
        super().__init__(train_x=train, val=val, test=test)

    def find(self, cfg: Any) -> tuple[Path, list[Row], Path]:
        """The folder that paths count from, the images, and what to name in messages."""
        raise NotImplementedError


def split_of(rows: Sequence[Row], shares: Sequence[float], seed: int, source: Path) -> list[list[tuple[str, str]]]:
    """Train, val and test, class by class; nothing is drawn from global generators.

    Raises:
        DataError: a class has too few images for one in every part.
    """
    count = Counter(row.classname for row in rows)
    wanted = [share for share in shares if share > 0]
    small = [f"{name!r} ({number})" for name, number in sorted(count.items()) if number <= len(wanted)]
    if small:
        raise DataError(
            f"{source} has too few images of {some(small)} for {len(wanted) + 1} parts (DATASET.SHARES "
            f"{tuple(shares)}): add images, leave these classes out, or divide the images yourself"
        )
    *given, tested = divide([(row.path, row.classname) for row in rows], wanted, seed)
    return [given[0], given[1] if len(given) == 2 else [], tested]


def check_parts(parts: Sequence[Sequence[tuple[str, str]]], source: Path) -> None:
    """Raise DataError for a class that lacks training or test images in a given division."""
    names = {name for part in parts for _, name in part}
    for part, members in zip(PARTS, parts, strict=True):
        absent = sorted(names - {name for _, name in members})
        if part in _NEEDED and absent:
            raise DataError(f"{source} has no {part} image of {some(list(map(repr, absent)))}; add some of each")


def check_names(rows: Iterable[Row], source: Path) -> None:
    """Raise DataError for fewer than two classes, or two that CLIP would read as the same words."""
    spelled: dict[str, str] = {}
    for name in sorted({row.classname for row in rows}):
        first = spelled.setdefault(" ".join(normalize("NFC", name).replace("_", " ").split()).casefold(), name)
        if first != name:
            raise DataError(
                f"{source} has the classes {first!r} and {name!r}, which read the same: rename or merge them"
            )
    if len(spelled) < 2:
        raise DataError(f"{source} has {'one class' if spelled else 'no class'}: at least two are needed")


def check_files(folder: Path, rows: Sequence[Row]) -> None:
    """Look at every image: does it lie in the folder, links followed, and does it begin as an image of 8 bits.

    Raises:
        DataError: with how many do not, and the first three.
    """
    base = os.path.realpath(folder)
    parents: dict[str, str] = {}
    outside, unreadable = [], []
    for row in rows:
        path = os.path.join(base, row.path)
        parent, file = os.path.split(path)
        real = os.path.join(parents.setdefault(parent, os.path.realpath(parent)), file)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if os.path.commonpath((base, real)) != base:
            outside.append(f"{row.path} -> {real}")
            continue
        try:
            with Image.open(real) as image:
                refuse_deep(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unreadable.append(f"{row.path} ({' '.join(str(error).split())})")
    if outside:
        raise DataError(f"{len(outside)} of {len(rows)} images are links that leave {base}: {some(outside)}; copy them")
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of {len(rows)} images in {base} cannot be read: {some(unreadable)}; restore or remove "
            "them"
        )
