"""The field's split files: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cpt_plugin.errors import DataError

PARTS = ("train", "val", "test")


class Entry(NamedTuple):
    """An image: path below the folder that a split counts from, label (from 0) and class name."""

    path: str
    label: int
    name: str


def is_published(path: Path, sha256: str) -> bool:
    """Whether a file is the one with this SHA-256: byte for byte, or a split that says the same in other white space.

    Split files were written with the lists in the order of :data:`PARTS`, four spaces a level and no space at the end
    of a line; what is read off a file is hashed as it would have been written so.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() == sha256.lower():
        return True
    try:
        content = json.loads(data.decode("utf-8-sig"))
        written = {part: content[part] for part in PARTS}
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    text = json.dumps(written, indent=4, separators=(",", ": "))
    return len(content) == len(PARTS) and hashlib.sha256(text.encode()).hexdigest() == sha256.lower()


def read_entries(path: Path) -> list[list[Entry]]:
    """The entries of train, val and test.

    Raises:
        DataError: the file is missing or malformed, or names a path that leaves the folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"cannot read the split file {path}: {error.strerror}; see docs/datasets.md for its source"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the split file {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in PARTS):
        raise DataError(f"the split file {path} must hold the lists train, val and test")
    return [[_checked(row, path) for row in content[part]] for part in PARTS]


def _checked(row: Any, path: Path) -> Entry:
    match row:
        case [str(relative), int(label), str(name)] if label >= 0 and not isinstance(label, bool):
            pure = PurePosixPath(relative)
            if pure.is_absolute() or ".." in pure.parts:
                raise DataError(f"{path} names {relative!r}, which leaves the data folder")
            return Entry(str(pure), label, name)
    raise DataError(f"{path} holds {row!r}; each entry must be [relative path, label, class name]")
