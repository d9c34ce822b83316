"""Image files below class folders, listed in an order that every machine repeats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cpt_plugin._names import some
from cpt_plugin.data import IMAGE_SUFFIXES
from cpt_plugin.data.unpack import SUFFIXES as ARCHIVE_SUFFIXES
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.data import Datum


@dataclass
class FolderContent:
    """What lies directly in a folder: names sorted, hidden ones left out."""

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def content_of(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> FolderContent:
    """Image files (by the end of their names), folders and other files of a folder; links are followed.

    Raises:
        DataError: the folder cannot be read, holds what is neither file nor folder, or an image or a folder whose name
            is not UTF-8.
    """
    found, odd, foreign = FolderContent(), [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                kind = found.others
                if entry.is_dir():
                    kind = found.folders
                elif not entry.is_file():
                    kind = odd
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    kind = found.images
                shown = printable(entry.name)
                if shown != entry.name and (kind is found.folders or kind is found.images):
                    foreign.append(shown)
                kind.append(shown)
    except OSError as error:
        raise DataError(
            f"cannot read the folder {folder}: {error.strerror}; check the data folder (DATASET.ROOT, --root)"
        ) from error
    if foreign:
        raise DataError(
            f"{folder} has names that are not UTF-8: {some(sorted(foreign))} (\\x.. stands for a byte); rename them, "
            "for instance with convmv"
        )
    if odd:
        raise DataError(
            f"{folder} holds links that lead nowhere, or what is no file: {some(sorted(odd))}; restore or remove them"
        )
    for names in (found.images, found.folders, found.others):
        names.sort()
    return found


def printable(name: str) -> str:
    """A file's name in which bytes that are not UTF-8 are written ``\\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_classes(folder: Path, classes: Mapping[str, tuple[int, str]]) -> list[Datum]:
    """The images of ``folder/<class folder>/``, label by label, files sorted by name.

    ``classes`` gives label and name of every class folder; exactly these must be there, so that no label can shift.
    Files that are no images are left out.

    Raises:
        DataError: a class folder is missing, empty or unknown, or cannot be read.
    """
    content = content_of(folder)
    present = set(content.folders)
    missing, unknown = sorted(classes.keys() - present), sorted(present - classes.keys())
    if missing or unknown:
        raise DataError(
            f"{folder} must hold one folder for each of {len(classes):,} classes; missing: {some(missing)}; "
            f"not known: {some(unknown)}{_why_not(content, missing, unknown)}"
        )
    items: list[Datum] = []
    empty = []
    for name, (label, classname) in sorted(classes.items(), key=lambda one: one[1][0]):
        images = content_of(folder / name).images
        items.extend(Datum.of_present_file(f"{folder}/{name}/{image}", label, classname) for image in images)
        if not images:
            empty.append(name)
    if empty:
        raise DataError(f"{folder} has no image for {len(empty):,} classes: {some(empty)}; unpack the data set again")
    return items


def _why_not(content: FolderContent, missing: Sequence[str], unknown: Sequence[str]) -> str:
    """What may be wrong with a folder that lacks class folders; "" where nothing tells."""
    if {name.casefold() for name in missing} & {name.casefold() for name in unknown}:
        return "; the names differ in capital letters: rename the folders"
    if missing and content.images:
        return f"; {len(content.images):,} images lie in it directly: sort them into the folders of their classes"
    archives = [name for name in content.others if name.endswith(ARCHIVE_SUFFIXES)]
    if missing and archives:
        return f"; {len(archives):,} archives lie in it ({some(archives)}): unpack each into a folder of its name"
    return ""
