"""A folder of images of your own, a sub-folder a class: DATASET.NAME ImageFolder (docs/custom-data.md)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpt_plugin._names import some
from cpt_plugin.data import HEIC_SUFFIXES, IMAGE_SUFFIXES
from cpt_plugin.data.custom import PART_WORDS, located
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from cpt_plugin.toolkit.embedded.image_files import reads_avif, reads_heic
from datasets._custom import HEIC_REMEDY, CustomDataset, Row
from datasets._listing import FolderContent, content_of
from datasets._root import data_root

_LOG = logging.getLogger("cpt_plugin")
_MORE_SUFFIXES = (".jfif", ".jpe", ".pgm", ".pnm", ".jp2")
_LEFT_BY_PROGRAMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that no person makes: they hold no images of their own."""


@DATASET_REGISTRY.register()
class ImageFolder(CustomDataset):
    """``DATASET.FOLDER/<class>/*.jpg``, or ``DATASET.FOLDER/{train,val,test}/<class>/*.jpg``.

    The class is called as its folder. Files that are no images, by the end of their names, are left out and counted.
    Folders of parts may also be called training, valid, validation and testing, in small letters or capitals.

    Raises:
        ConfigError: DATASET.FOLDER is not given.
        DataError: a folder is missing or empty, holds folders where images should be or images where folders should
            be; and what :class:`~datasets._custom.CustomDataset` raises.
    """

    def find(self, cfg: Any) -> tuple[Path, list[Row], Path]:
        if not cfg.DATASET.FOLDER:
            raise ConfigError("DATASET.NAME ImageFolder needs DATASET.FOLDER, the folder with a sub-folder a class")
        folder = located(cfg.DATASET.FOLDER, data_root(cfg))
        content = _content(folder)
        _refuse_loose(folder, content)
        parts = _parts(folder, content.folders)
        if not parts:
            _refuse_nested(folder, content.folders)
            rows = rows_of(folder, "", "")
        else:
            rows = [row for part in PARTS if part in parts for row in rows_of(folder, parts[part], part)]
        return folder, rows, folder


def own_suffixes() -> tuple[str, ...]:
    """Endings of the names of files that can be read here as images of a person's own."""
    heic = HEIC_SUFFIXES if reads_heic() else ()
    return (*IMAGE_SUFFIXES, *_MORE_SUFFIXES, *heic, *((".avif",) if reads_avif() else ()))


def rows_of(folder: Path, below: str, part: str) -> list[Row]:
    """The images of one part, which lies ``below`` the folder (or of all, ""), from a folder a class.

    Raises:
        DataError: the layout is another one.
    """
    place = folder / below
    content = _content(place)
    _refuse_loose(place, content)
    rows, others = [], list(content.others)
    empty: dict[str, list[str]] = {}
    for name in content.folders:
        inside = _content(place / name)
        if inside.folders:
            raise DataError(
                f"{place / name} holds folders ({some(inside.folders)}), but the images of a class lie directly in its "
                "folder: move them there"
            )
        prefix = f"{below}/{name}" if below else name
        rows += [Row(f"{prefix}/{image}", name, part) for image in inside.images]
        others += [f"{name}/{file}" for file in inside.others]
        if not inside.images:
            empty[name] = inside.others
    if empty:
        raise DataError(
            f"{place} has no image in {some(list(empty))}; {_instead_of_images(empty)}add images, or remove the empty "
            "folders"
        )
    if not rows:
        raise DataError(f"{place} holds no folder of a class")
    for line in _left_out(place, others):
        _LOG.warning(line)
    return rows


def _content(folder: Path) -> FolderContent:
    content = content_of(folder, own_suffixes())
    content.folders = [name for name in content.folders if name not in _LEFT_BY_PROGRAMS]
    return content


def _parts(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The folders of the parts by their names in the field; {} for a folder that is not divided.

    It is divided when a folder is called as a part and holds folders.

    Raises:
        DataError: train or test is missing, two folders are one part, or others beside them hold images.
    """
    called = [name for name in names if name.lower() in PART_WORDS]
    inside = {name: _content(folder / name) for name in called}
    if not any(content.folders for content in inside.values()):
        return {}
    parts: dict[str, str] = {}
    for name in called:
        part = PART_WORDS[name.lower()]
        if not (inside[name].folders or inside[name].images):
            _LOG.warning(f"{folder / name} is empty and left out")
        elif parts.setdefault(part, name) != name:
            raise DataError(f"{folder} holds {parts[part]} and {name}, which are both {part}: make them one")
    _refuse_unsorted(folder, {name: inside[name].folders for name in parts.values()})
    _refuse_missing(folder, parts)
    for name in (name for name in names if name not in called):
        if _holds_images(folder / name):
            raise DataError(
                f"{folder} holds {name} with images beside {_in_words(parts)}: call it after a part (train, "
                "val, test), or move it away"
            )
        _LOG.warning(f"{folder / name} holds no images and is left out")
    return parts


def _refuse_unsorted(folder: Path, classes: dict[str, list[str]]) -> None:
    """Refuse a part with all images in one folder that is no class of the other parts, as in tiny-imagenet's val."""
    for name, found in classes.items():
        others = {other for part, names in classes.items() if part != name for other in names}
        if len(found) == 1 and found[0] not in others and len(others) > 1:
            raise DataError(
                f"{folder / name} has one folder, {found[0]}, and not one for each of the {len(others)} classes: sort "
                "its images into folders of their classes, or list all images in a CSV file (DATASET.NAME ImageList)"
            )


def _refuse_missing(folder: Path, parts: dict[str, str]) -> None:
    there = _in_words(parts)
    if "train" not in parts:
        raise DataError(f"{folder} has {there}, but no folder train with training images: add one")
    if "test" not in parts:
        instead = (
            f"call {parts['val']} test if its images are the test images"
            if "val" in parts
            else f"have its images divided: set DATASET.FOLDER to {folder / parts['train']}"
        )
        raise DataError(f"{folder} has {there}, but no folder test: add one, or {instead}")


def _in_words(parts: Mapping[str, str]) -> str:
    return " and ".join(parts[part] for part in PARTS if part in parts)


def _refuse_loose(folder: Path, content: FolderContent) -> None:
    if content.images and not content.folders:
        raise DataError(
            f"{folder} holds images ({some(content.images)}), but no folders of classes: put the images of each class "
            "into a folder that is called as the class, or list all in a CSV file (DATASET.NAME ImageList)"
        )
    if content.images:
        raise DataError(f"{folder} has images outside class folders: {some(content.images)}; move them into one")


def _refuse_nested(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder whose only folder holds the classes or the parts: archives are often unpacked so."""
    if len(names) == 1 and (deeper := _content(folder / names[0]).folders):
        raise DataError(
            f"{folder} holds nothing but the folder {names[0]} with the folders {some(deeper)}: set DATASET.FOLDER to "
            f"{folder / names[0]}"
        )


def _holds_images(folder: Path) -> bool:
    """Whether there are images in a folder or its folders."""
    content = _content(folder)
    return bool(content.images) or any(_content(folder / name).images for name in content.folders)


def _instead_of_images(empty: Mapping[str, Sequence[str]]) -> str:
    """What the first of the folders without images that holds other files has instead; "" for none."""
    for name, files in empty.items():
        if files and files[0].lower().endswith(HEIC_SUFFIXES):
            return f"{name}/{files[0]} is a HEIC photograph: {HEIC_REMEDY}; "
        if files:
            return f"{name}/{files[0]} does not end as an image does (.jpg, .png): rename such files, "
    return ""


def _left_out(place: Path, others: Sequence[str]) -> Iterator[str]:
    """Lines on files that are no images, and on HEIC photographs that cannot be read."""
    heic = [name for name in others if name.lower().endswith(HEIC_SUFFIXES)]
    if heic:
        counted = "1 HEIC photograph is" if len(heic) == 1 else f"{len(heic)} HEIC photographs are"
        yield f"{place}: {counted} left out: {some(heic)}; {HEIC_REMEDY}"
    if rest := [name for name in others if name not in heic]:
        counted = "1 file is no image and is" if len(rest) == 1 else f"{len(rest)} files are no images and are"
        yield f"{place}: {counted} left out: {some(rest)}"
