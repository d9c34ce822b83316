"""The list of all files of a data set as they were once: ``.cpt-files-NAME.jsonl`` in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cpt_plugin._schema import decode
from cpt_plugin.atomic import atomic_write
from cpt_plugin.errors import DataError

SCHEMA = 1


class Row(NamedTuple):
    """One file: path below the data set's folder, size in bytes, SHA-256; part, label and class name in the split.

    For files that no split names, the part and the name are empty and the label is -1.
    """

    path: str
    size: int
    sha256: str
    part: str = ""
    label: int = -1
    name: str = ""


def list_file(folder: Path, name: str) -> Path:
    """Where the list of a data set is."""
    return folder / f".cpt-files-{name}.jsonl"


def write_list(file: Path, rows: Iterable[Row]) -> None:
    """Write a list, one row a line between a head and a hash of all that stands before it."""
    lines = [json.dumps({"schema": SCHEMA}), *(json.dumps(row) for row in rows)]
    body = ("\n".join(lines) + "\n").encode()
    atomic_write(file, body + (json.dumps({"sha256": hashlib.sha256(body).hexdigest()}) + "\n").encode())


def read_list(file: Path) -> list[Row] | None:
    """The rows of a list; None where there is none.

    Raises:
        DataError: it is damaged, or of another version.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    body, _, seal = content.rstrip(b"\n").rpartition(b"\n")
    try:
        if json.loads(seal) != {"sha256": hashlib.sha256(body + b"\n").hexdigest()}:
            raise ValueError("its hash is wrong")
        head, *lines = body.split(b"\n")
        if json.loads(head) != {"schema": SCHEMA}:
            raise ValueError("it is of another version")
        return [decode(Row, json.loads(line)) for line in lines]
    except ValueError as error:
        raise DataError(
            f"the list of files {file} is damaged ({error}): remove it, and let `data verify` make it anew from files "
            f"that are known to be right"
        ) from error
