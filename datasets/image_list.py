"""A CSV file of images and labels of your own: DATASET.NAME ImageList (docs/custom-data.md)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cpt_plugin.data.custom import PART_WORDS, located
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._custom import CustomDataset, Row
from datasets._root import data_root
from datasets._table_file import read_table, refuse_lines


@DATASET_REGISTRY.register()
class ImageList(CustomDataset):
    """``DATASET.LIST``: a CSV file (UTF-8, commas) with the columns path, label and, if divided already, split.

    The label is the class name; the split is train, val or test. Paths count from ``DATASET.FOLDER``, by default the
    folder of the file.

    Raises:
        ConfigError: DATASET.LIST is not given.
        DataError: the file is missing, or has other columns or lines that mean nothing (all counted, the first three
            shown with their numbers); and what :class:`~datasets._custom.CustomDataset` raises.
    """

    def find(self, cfg: Any) -> tuple[Path, list[Row], Path]:
        if not cfg.DATASET.LIST:
            raise ConfigError("DATASET.NAME ImageList needs DATASET.LIST, a CSV file with the columns path and label")
        root = data_root(cfg)
        file = located(cfg.DATASET.LIST, root)
        folder = located(cfg.DATASET.FOLDER, root) if cfg.DATASET.FOLDER else file.parent
        return folder, read_rows(file, folder), file


def read_rows(file: Path, folder: Path) -> list[Row]:
    """The lines of a list.

    Raises:
        DataError: as above.
    """
    rows, wrong = [], []
    first: dict[str, tuple[int, str]] = {}
    for line, cells in read_table(file, "the list", ("path", "label"), ("split",)):
        fault = _fault(cells, folder) or _repeated(cells, first, line)
        if fault:
            wrong.append(f"line {line}: {fault}")
        else:
            rows.append(Row(cells["path"], cells["label"], cells.get("split", "").lower()))
    refuse_lines(file, wrong)
    return rows


def _fault(cells: Mapping[str, str], folder: Path) -> str:
    """What is wrong with a line, "" for nothing."""
    path, label, part = cells["path"], cells["label"], cells.get("split", "train")
    if not path or not label:
        return f"no {'label' if path else 'path'}"
    if any(unicodedata.category(letter) == "Cc" for letter in label):
        return f"the label {label!r} holds a line break or a control character (a quote that is not closed?)"
    if not part:
        return "the split is empty: give every line one, or leave the column out"
    if part.lower() not in PARTS:
        word = PART_WORDS.get(part.lower())
        return f"the split {part!r} is none of {', '.join(PARTS)}" + (f": write {word}" if word else "")
    return _path_fault(path, folder)


def _path_fault(path: str, folder: Path) -> str:
    pure = PurePosixPath(path)
    if "\\" in path and not (folder / path).is_file():
        return f"{path!r} is written with backslashes: write {path.replace(chr(92), '/')!r}"
    if pure.is_absolute() or ".." in pure.parts or not (folder / path).is_file():
        inside = _inside(pure, folder)
        if pure.is_absolute() or ".." in pure.parts:
            what = f"{path!r} " + ("is absolute" if inside else f"leaves the folder {folder}")
        else:
            what = f"there is no file {folder / path}"
        return what + (f": write {inside!r}, the path from {folder} on" if inside else "")
    return ""


def _inside(path: PurePosixPath, folder: Path) -> str:
    """The longest end of a path that leads to a file in the folder; "" for none."""
    parts = [part for part in path.parts if part != "/"]
    if ".." in parts:
        return ""
    ends = (PurePosixPath(*parts[start:]) for start in range(len(parts)))
    return next((str(end) for end in ends if (folder / end).is_file()), "")


def _repeated(cells: Mapping[str, str], first: dict[str, tuple[int, str]], line: int) -> str:
    path, label = cells["path"], cells["label"]
    before, other = first.setdefault(str(PurePosixPath(path)), (line, label))
    if before == line:
        return ""
    return f"{path!r} stands in line {before} already" + (f", with the label {other!r}" if other != label else "")
