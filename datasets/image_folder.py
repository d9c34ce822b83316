"""A folder of images of your own, a sub-folder a class: DATASET.NAME ImageFolder (docs/custom-data.md)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cpt_plugin._names import some
from cpt_plugin.data.custom import located
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._custom import CustomDataset, Row
from datasets._listing import content_of
from datasets._root import data_root

_LOG = logging.getLogger("cpt_plugin")


@DATASET_REGISTRY.register()
class ImageFolder(CustomDataset):
    """``DATASET.FOLDER/<class>/*.jpg``, or ``DATASET.FOLDER/{train,val,test}/<class>/*.jpg``.

    The class is called as its folder. Files that are no images, by the end of their names, are left out and counted.

    Raises:
        ConfigError: DATASET.FOLDER is not given.
        DataError: a folder is missing or empty, holds folders where images should be or images where folders should
            be; and what :class:`~datasets._custom.CustomDataset` raises.
    """

    def find(self, cfg: Any) -> tuple[Path, list[Row], Path]:
        if not cfg.DATASET.FOLDER:
            raise ConfigError("DATASET.NAME ImageFolder needs DATASET.FOLDER, the folder with a sub-folder a class")
        folder = located(cfg.DATASET.FOLDER, data_root(cfg))
        names = set(content_of(folder).folders)
        if "train" in names and names <= set(PARTS):
            if "test" not in names:
                raise DataError(
                    f"{folder} has train{' and val' if 'val' in names else ''}, but no folder test: add one, or call "
                    "val so if its images are the test images"
                )
            rows = [row for part in PARTS if part in names for row in rows_of(folder, part)]
        else:
            rows = rows_of(folder, "")
        return folder, rows, folder


def rows_of(folder: Path, part: str) -> list[Row]:
    """The images of one part (or of all, "") from a folder a class.

    Raises:
        DataError: the layout is another one.
    """
    place = folder / part
    content = content_of(place)
    if content.images:
        raise DataError(f"{place} has images outside class folders: {some(content.images)}; move them into one")
    rows, empty, others = [], [], list(content.others)
    for name in content.folders:
        inside = content_of(place / name)
        if inside.folders:
            raise DataError(
                f"{place / name} holds folders ({some(inside.folders)}), but the images of a class lie directly in its "
                "folder; parts of a split must be called train, val and test, train and test at least"
            )
        below = f"{part}/{name}" if part else name
        rows += [Row(f"{below}/{image}", name, part) for image in inside.images]
        others += [f"{name}/{file}" for file in inside.others]
        if not inside.images:
            empty.append(name)
    if empty or not rows:
        raise DataError(f"{place} has no image in {some(empty)}; add images, or remove the empty folders")
    if others:
        counted = "1 file is no image and is" if len(others) == 1 else f"{len(others)} files are no images and are"
        _LOG.warning(f"{place}: {counted} left out: {some(others)}")
    return rows
