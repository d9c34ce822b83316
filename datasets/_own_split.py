"""Seeded splits of our own, where the published one cannot be had: the same on every machine."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.data.split_file import PARTS, Entry, read_entries
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import Datum, present_items
from datasets._check import refuse_empty
from datasets._listing import content_of

if TYPE_CHECKING:
    from datasets._split import SplitDataset

LOG = logging.getLogger("cpt_plugin")
SHARES = (0.5, 0.2)
"""Train and val of each class where nobody divided the images; the rest is test. CoOp's shares."""
TRAIN_SHARE = 0.8
"""Of what the data set's authors gave for training; the rest is val. CoOp's share."""

Named = tuple[str, str]
"""Path below the folder that the split's paths are relative to, and class name."""


def read_or_make(dataset: SplitDataset, file: Path, seed: int) -> tuple[list[Datum], list[Datum], list[Datum]]:
    """The split in ``file``; made from the images and written first where it is not there yet.

    Where the folder cannot be written the split stays in memory and is made anew by every run.

    Raises:
        DataError: there are no images, a class has none in train or test, or an official list is damaged or names
            images that are not there.
    """
    if file.is_file():
        entries = read_entries(file)
        _say_if_outdated(dataset, file, seed, entries)
        train, val, test = present_items(entries, dataset.base, file)
        return train, val, test
    parts, how = make(dataset, seed)
    rows = number(parts, dataset.manifest.class_names.names)
    refuse_empty([[(label, name) for _, label, name in part] for part in rows.values()], f"the own split ({how})")
    LOG.info(f"{dataset.manifest.registered}: {how}; {', '.join(f'{len(r)} {p}' for p, r in rows.items())}")
    train, val, test = present_items(list(rows.values()), dataset.base, file)
    try:
        atomic_write_text(file, json.dumps({"origin": f"cpt-plugin, not published; seed {seed}; {how}", **rows}))
    except OSError as error:
        LOG.warning(f"{file} cannot be written ({error.strerror}): the split is made anew by every run")
    return train, val, test


def _say_if_outdated(dataset: SplitDataset, file: Path, seed: int, entries: list[list[Entry]]) -> None:
    try:
        rows = number(make(dataset, seed)[0], dataset.manifest.class_names.names)
    except DataError:  # without the authors' lists a split that was made by them still serves
        return
    if list(rows.values()) != list(entries):
        LOG.warning(
            f"{file} is used, but the images and lists that are here now would give another split (was it made before "
            "all images were unpacked?): to make it anew, remove it"
        )


def make(dataset: SplitDataset, seed: int) -> tuple[list[list[Named]], str]:
    """Divide the images, by the authors' lists where there are any; returns train, val, test and how it was done."""
    lists = dataset.official_lists()
    if lists is None:
        return divide(dataset.images(), SHARES, seed), "50, 20 and 30 % of each class"
    train, val = divide(lists[0], (TRAIN_SHARE,), seed)
    return [train, val, sorted(lists[1])], "the authors' training and test images, 20 % of the former as val"


def divide(images: Iterable[Named], shares: Sequence[float], seed: int) -> list[list[Named]]:
    """Divide the images of every class: a part for each share, and one for the rest.

    Every part gets an image of each class that has enough, the first parts before the others. Each class is shuffled
    from sorted paths with a generator of its own, seeded by ``seed`` and the class name, so neither the file system's
    order nor other classes matter. Every part lists class after class.
    """
    by_class: dict[str, list[Named]] = {}
    for image in sorted(images):
        by_class.setdefault(image[1], []).append(image)
    parts: list[list[Named]] = [[] for _ in (*shares, None)]
    for name, members in sorted(by_class.items()):
        random.Random(f"own split {seed}: {name}").shuffle(members)
        begin = 0
        for position, share in enumerate(shares):
            last = len(members) - (len(shares) - position)  # an image for each of the parts that follow
            end = min(begin + max(1, round(len(members) * share)), max(begin + 1, last))
            parts[position].extend(members[begin:end])
            begin = end
        parts[-1].extend(members[begin:])
    return parts


def number(parts: Sequence[Sequence[Named]], order: Sequence[str]) -> dict[str, list[tuple[str, int, str]]]:
    """Rows of a split file; labels follow the published order of the names, unknown names come last.

    Raises:
        DataError: there is not a single image.
    """
    rank = {name: position for position, name in enumerate(order)}
    names = sorted({name for part in parts for _, name in part}, key=lambda name: (rank.get(name, len(rank)), name))
    if not names:
        raise DataError("no images to split; check the data folder (DATASET.ROOT, --root)")
    label = {name: position for position, name in enumerate(names)}
    return {key: [(path, label[name], name) for path, name in part] for key, part in zip(PARTS, parts, strict=True)}


def images_below(
    folder: Path, class_of: Callable[[PurePosixPath], str], ignored: Collection[str] = ()
) -> list[Named]:
    """All images below a folder, with their class names; hidden files and ignored folders are left out.

    Raises:
        DataError: a folder cannot be read, so that its images would be silently left out; or there is no image.
    """
    found, waiting = [], [PurePosixPath()]
    others: Counter[str] = Counter()
    for below in waiting:
        content = content_of(folder / below)
        waiting += [below / name for name in content.folders if name not in ignored]
        found += [(str(below / name), class_of(below / name)) for name in content.images]
        others.update(PurePosixPath(name).suffix for name in content.others)
    if not found:
        there = f"; there are {', '.join(f'{n:,} {kind} files' for kind, n in others.most_common(3))}" if others else ""
        raise DataError(f"there are no images below {folder}{there}: check the data folder (DATASET.ROOT, --root)")
    return found


def lines_of(path: Path) -> list[str]:
    """Lines of a text file that are neither empty nor a comment (``# ...``).

    Raises:
        DataError: it cannot be read.
    """
    try:
        lines = map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())
        return [line for line in lines if line and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read ({error}): get it again") from error


def matlab(path: Path) -> Mapping[str, Any]:
    """Variables of a ``.mat`` file.

    Raises:
        DataError: it cannot be read.
    """
    from scipy.io import loadmat

    try:
        return loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises many kinds for damaged files
        raise DataError(f"{path} is damaged ({error}): get it again") from error
