"""What data sets of a person's own share: checks of every image, splits, labels by name."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from cpt_plugin._names import some
from cpt_plugin.data import HEIC_SUFFIXES
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit import NAME as TOOLKIT
from cpt_plugin.toolkit import DatasetBase, present_items
from cpt_plugin.toolkit.embedded.config import SHARES_IN_WORDS, are_shares
from cpt_plugin.toolkit.embedded.data import UprightDatum
from cpt_plugin.toolkit.embedded.image_files import UNREADABLE, opened, orientation, reads_heic, refuse_deep
from datasets._class_names import names_of
from datasets._few_shot import few_shot
from datasets._own_split import Named, divide, number

_LOG = logging.getLogger("cpt_plugin")
HEIC_REMEDY = "to read it, pip install pillow-heif, or save it as JPEG"
_NO_IMAGES = {
    b"": "it is empty",
    b"version https://git-lfs": "it is a pointer of Git LFS: git lfs pull gets the image",
    b"<": "it is a web page or another text",
    b"Rar!": "it is an archive",
    b"PK\x03\x04": "it is an archive",
}
"""What a file is that begins so and is no image."""


class _Header(NamedTuple):
    width: int
    height: int
    orientation: int
    digest: str


_HEADERS: dict[tuple[str, int, int], _Header] = {}
"""By path, size and time of change."""
_SAMPLE = 2048
"""Bytes that are read at the beginning, in the middle and at the end of an image's file to tell it from others."""


class Row(NamedTuple):
    """An image: path below the folder, label of its class, and its part ("" where it is to be drawn)."""

    path: str
    label: str
    part: str = ""


class CustomDataset(DatasetBase):
    """Images that somebody labelled; few-shot, base and new classes and the long tail as for any data set.

    Classes are numbered in alphabetical order of their folders or labels. Images that are not divided yet are divided
    by ``DATASET.SPLIT_SEED``: of every class the share ``DATASET.SHARES[0]`` trains, ``SHARES[1]`` validates, the rest
    tests, at least one image each; of two images one trains and one tests, and a single one trains. The same images
    and seed give the same split on every machine, and the split hash of a record tells whether two runs had the same.

    Images are read upright, as a viewer shows them; the split hash tells whether any had to be turned. It tells
    images of the same names apart as well, by the sizes of their files and parts of what these hold.

    Attributes:
        untested: names of classes whose only image trains, so that they have none to be tested with.
        unvalidated: names of these classes and, of images divided here, of those with too few for validation.

    Raises:
        ConfigError: DATASET.SHARES are no shares.
        DataError: an image cannot be read or lies outside the folder; names of classes as in
            :func:`~datasets._class_names.names_of`; a class of a given division lacks training or test images.
    """

    def __init__(self, cfg: Any) -> None:
        folder, rows, source = self.find(cfg)
        self.dataset_dir = str(folder)
        names = names_of((row.label for row in rows), cfg, source)
        turned, digests = check_files(folder, rows)
        self._files = {os.path.join(self.dataset_dir, path): (path, digest) for path, digest in digests.items()}
        self._read_as = _say_turned(turned, len(rows), source) if turned else ""
        if rows[0].part:
            parts = [[(row.path, row.label) for row in rows if row.part == part] for part in PARTS]
            check_parts(parts, source)
        else:
            parts = split_of(rows, cfg.DATASET.SHARES, cfg.DATASET.SPLIT_SEED, source)
        trained, validated, tested = ({label for _, label in part} for part in parts)
        untested = trained - tested
        unvalidated = untested if rows[0].part else trained - validated
        self.untested = frozenset(names[label] for label in untested)
        self.unvalidated = frozenset(names[label] for label in unvalidated)
        if untested:
            _LOG.warning(
                f"{source} has one image only of {some(sorted(map(repr, untested)))}: it trains, and the class has no "
                "test image, so no accuracy"
            )
        numbered = [[(path, label, names[key]) for path, label, key in part] for part in number(parts, ()).values()]
        items = present_items(numbered, folder, source, UprightDatum)
        train, val, test = few_shot(items[0], items[1], items[2], cfg)
        super().__init__(train_x=train, val=val, test=test)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the files of all images that the data set has now, and of how they are read."""
        paths = {item.impath for part in (self.train_x, self.val, self.test) for item in part or ()}
        files = sorted(self._files[path] for path in paths)
        return hashlib.sha256(json.dumps([self._read_as, files]).encode()).hexdigest()

    def find(self, cfg: Any) -> tuple[Path, list[Row], Path]:
        """The folder that paths count from, the images, and what to name in messages."""
        raise NotImplementedError


def split_of(rows: Sequence[Row], shares: Sequence[float], seed: int, source: Path) -> list[list[Named]]:
    """Train, val and test, class by class; nothing is drawn from global generators.

    A class that has not an image for every part goes without validation, then without test images; the former is said.

    Raises:
        ConfigError: the shares are none.
    """
    if not are_shares(shares):
        raise ConfigError(f"DATASET.SHARES must be {SHARES_IN_WORDS}, not {tuple(shares)!r}")
    count = Counter(row.label for row in rows)
    wanted = [share for share in shares if share > 0]
    small = {label for label, images in count.items() if images <= len(wanted)}
    unvalidated = sorted(repr(label) for label in small if count[label] == 2)
    if unvalidated:
        _LOG.warning(f"{source} has two images only of {some(unvalidated)}: one trains, one tests, none validates")
    parts: list[list[Named]] = [[] for _ in PARTS]
    for members, given in ((count.keys() - small, wanted), (small, wanted[:1])):
        *first, last = divide([(row.path, row.label) for row in rows if row.label in members], given, seed)
        for position, part in (*enumerate(first), (len(PARTS) - 1, last)):
            parts[position] += part
    return [sorted(part, key=lambda image: image[1]) for part in parts]


def check_parts(parts: Sequence[Sequence[Named]], source: Path) -> None:
    """Raise DataError for a class that lacks training or test images in a given division; a single image may train."""
    train, val, test = (Counter(label for _, label in part) for part in parts)
    whole = train + val + test
    for part, members in (("train", train), ("test", test)):
        absent = [label for label in sorted(whole) if not members[label]]
        if part == "test":
            absent = [label for label in absent if not whole[label] == train[label] == 1]
        if absent:
            raise DataError(f"{source} has no {part} image of {some(list(map(repr, absent)))}; add some of each")


def check_files(folder: Path, rows: Sequence[Row]) -> tuple[int, dict[str, str]]:
    """Look at every image: does it lie in the folder, links followed, and does it begin as an image of 8 bits.

    Returns:
        How many images are not stored upright (EXIF), and of every image, by its path, what tells its file from others.

    Raises:
        DataError: with how many do not, and the first three.
    """
    base = os.path.realpath(folder)
    parents: dict[str, str] = {}
    outside, unreadable, large = [], [], []
    turned = 0
    digests: dict[str, str] = {}
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
            header = _header(real)
            turned += header.orientation != 1
            digests[row.path] = header.digest
            if Image.MAX_IMAGE_PIXELS and header.width * header.height > Image.MAX_IMAGE_PIXELS:
                large.append(f"{row.path} ({header.width} x {header.height})")
        except UNREADABLE as error:
            unreadable.append(f"{row.path} ({_why(real, error)})")
    if outside:
        raise DataError(
            f"{len(outside)} of {len(rows)} images are links that leave {base}: {some(outside)}; copy them, or give a "
            "folder that holds both"
        )
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of {len(rows)} images in {base} cannot be read: {some(unreadable)}; restore or remove "
            "them"
        )
    if large:
        many = "1 image is" if len(large) == 1 else f"{len(large)} images are"
        _LOG.warning(f"{base}: {many} so large that every epoch takes long: {some(large)}; save smaller ones")
    return turned, digests


def _header(path: str) -> _Header:
    """What an image's header says; read once in a process for each state of the file, so for all its data managers.

    Raises:
        one of UNREADABLE: it is no image of 8 bits.
    """
    status = os.stat(path)
    state = path, status.st_size, status.st_mtime_ns
    if state not in _HEADERS:
        with opened(path) as image:
            refuse_deep(image)
            _HEADERS[state] = _Header(image.width, image.height, orientation(image), file_digest(path, status.st_size))
    return _HEADERS[state]


def file_digest(path: str, size: int) -> str:
    """SHA-256 (hex) of a file's size and of its bytes; of a large one's at the beginning, in the middle and at the end.

    Reading all of them would cost as much as an epoch.

    Raises:
        OSError: it cannot be read.
    """
    whole = size <= 3 * _SAMPLE
    starts = (0,) if whole else (0, (size - _SAMPLE) // 2, size - _SAMPLE)
    file = os.open(path, os.O_RDONLY)
    try:
        parts = [os.pread(file, size if whole else _SAMPLE, start) for start in starts]
    finally:
        os.close(file)
    return hashlib.sha256(b"%d %b" % (size, b"".join(parts))).hexdigest()


def _why(path: str, error: BaseException) -> str:
    """Why an image cannot be read, in a few words."""
    if not isinstance(error, UnidentifiedImageError):
        return " ".join(str(error).split())
    if path.lower().endswith(HEIC_SUFFIXES) and not reads_heic():
        return f"it is a HEIC photograph: {HEIC_REMEDY}"
    with open(path, "rb") as file:
        begin = file.read(64).lstrip() if os.path.getsize(path) else b""
    known = (reason for mark, reason in _NO_IMAGES.items() if (begin.startswith(mark) if mark else not begin))
    return next(known, "it is no image that Pillow knows")


def _say_turned(turned: int, images: int, source: Path) -> str:
    """Log what becomes of images that are not stored upright; returns what the split hash takes in for it."""
    many = f"{source}: {turned} of {images} images are not stored upright (EXIF orientation)"
    if TOOLKIT != "embedded":
        _LOG.warning(f"{many}; Dassl reads them as they are stored. Save them upright, or use CPT_TOOLKIT=embedded")
        return ""
    _LOG.info(f"{many}; they are turned, as a viewer shows them")
    return "images upright"
