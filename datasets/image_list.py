"""A CSV file of images and labels of your own: DATASET.NAME ImageList (docs/custom-data.md)."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cpt_plugin._names import nearest, some
from cpt_plugin.data.custom import located
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit import DATASET_REGISTRY
from datasets._custom import CustomDataset, Row
from datasets._root import data_root

_LOG = logging.getLogger("cpt_plugin")
COLUMNS = ("path", "label", "split")


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
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(file, reader.fieldnames or ())
            divided = "split" in (reader.fieldnames or ())
            rows: list[Row] = []
            wrong: list[str] = []
            first: dict[str, int] = {}
            for cells in reader:
                fault = _fault(cells, divided, folder) or _repeated(cells["path"], first, reader.line_num)
                if fault:
                    wrong.append(f"line {reader.line_num}: {fault}")
                else:
                    rows.append(Row(cells["path"].strip(), cells["label"].strip(), (cells.get("split") or "").strip()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the list {file}: {error}; it must be a CSV file in UTF-8") from error
    if wrong:
        raise DataError(f"{len(wrong)} lines of {file} are wrong: {some(wrong)}; correct or remove them")
    if rows and all(row.classname.isdecimal() for row in rows):
        _LOG.warning(f"the labels of {file} are numbers, and CLIP reads them as names: write the names of the classes")
    return rows


def _check_columns(file: Path, found: Any) -> None:
    unknown = [name for name in found if name not in COLUMNS]
    other = next((mark for mark in ";\t|" if len(found) == 1 and mark in found[0]), "")
    if other:
        raise DataError(f"the columns of {file} are separated by {other!r}, but must be by ',': save it with commas")
    if unknown or "path" not in found or "label" not in found or len(set(found)) < len(found):
        near = f"; did you mean {nearest(str(unknown[0]), COLUMNS)!r}?" if unknown else ""
        raise DataError(
            f"{file} has the columns {', '.join(map(str, found)) or '(none)'}, but must have path, label and, if it is "
            f"divided, split{near}"
        )


def _fault(cells: Mapping[Any, Any], divided: bool, folder: Path) -> str:
    """What is wrong with a line, "" for nothing."""
    if None in cells or None in cells.values():
        return "not as many cells as columns"
    path, label = cells["path"].strip(), cells["label"].strip()
    pure = PurePosixPath(path)
    if not path or not label:
        return f"no {'label' if path else 'path'}"
    if divided and cells["split"].strip() not in PARTS:
        return f"the split {cells['split']!r} is none of {', '.join(PARTS)}"
    if pure.is_absolute() or ".." in pure.parts:
        return f"{path!r} leaves the folder {folder}"
    if not (folder / path).is_file():
        return f"there is no file {folder / path}"
    return ""


def _repeated(path: str, first: dict[str, int], line: int) -> str:
    before = first.setdefault(str(PurePosixPath(path.strip())), line)
    return f"{path.strip()!r} stands in line {before} already" if before != line else ""
