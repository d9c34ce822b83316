"""Records in folders and in JSON lines (compressed or not), and the journal of failed runs beside them."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin._schema import SchemaError, decode
from cpt_plugin.atomic import append_line
from cpt_plugin.errors import RecordError
from cpt_plugin.results.imported import MARK
from cpt_plugin.results.record import RunRecord, from_plain, plain_json, to_plain

JOURNAL = "failures.jsonl"
_REMEDY = "give an output folder, or a file that `results export` wrote"
COMPRESSED = ".gz"
_UNREADABLE = object()


@dataclass(frozen=True)
class Failure:
    """A run that ended without a record: which one, why, and when (UTC, ISO 8601)."""

    method: str
    variant: str
    dataset: str
    tau: float
    seed: int
    protocol: str
    error: str
    created: str


def read_lines(path: Path) -> list[RunRecord]:
    """The records in a file of JSON lines, compressed if it is called so.

    Raises:
        RecordError: it is missing, a record damaged (line named), or a line not a record but figures from a log.
    """
    return [_from_line(line, origin) for line, origin in lines_of(path, _REMEDY)]


def lines_of(path: Path, remedy: str) -> list[tuple[str, str]]:
    """The lines of a file of JSON lines, compressed if it is called so, each with what names it in messages.

    Raises:
        RecordError: it cannot be read; ``remedy`` says what to do.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == COMPRESSED else data
        lines = data.decode().splitlines()
    except (OSError, ValueError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"{path}: cannot be read: {reason}: {remedy}") from error
    return [(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line]


def to_lines(records: Iterable[RunRecord]) -> str:
    """The records as JSON lines, sorted, so that the same records give the same bytes."""
    return "".join(sorted(json.dumps(to_plain(record), sort_keys=True, allow_nan=False) + "\n" for record in records))


def is_of_others(path: Path) -> bool:
    """Whether a file of JSON lines begins with something that is no record: another program's log, imported figures."""
    first = _first_line(path)
    return first is not _UNREADABLE and not (isinstance(first, dict) and "schema" in first)


def is_of_logs(path: Path) -> bool:
    """Whether a file of JSON lines begins with figures imported from a log."""
    first = _first_line(path)
    return isinstance(first, dict) and MARK in first


def _first_line(path: Path) -> Any:
    try:
        with gzip.open(path, "rt") if path.suffix == COMPRESSED else path.open(encoding="utf-8") as file:
            return json.loads(next(file, "{}"))
    except (OSError, ValueError, EOFError, zlib.error, RecursionError):
        return _UNREADABLE


def is_lines(path: Path) -> bool:
    """Whether a file's name says JSON lines: ``.jsonl`` or ``.jsonl.gz``."""
    return path.name.removesuffix(COMPRESSED).endswith(".jsonl")


def compressed(text: str) -> bytes:
    """The text (UTF-8) as a gzip file that names neither a time nor a file: the same zlib gives the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:
        file.write(text.encode())
    return packed.getvalue()


def add_failure(folder: Path, failure: Failure) -> None:
    """Note a failed run in the journal of an output folder; several processes may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    append_line(folder / JOURNAL, json.dumps(dataclasses.asdict(failure), sort_keys=True))


def load_failures(folder: str | Path) -> list[Failure]:
    """The journal of an output folder, oldest first; lines that a killed process left unfinished are passed over."""
    path, found = Path(folder) / JOURNAL, []
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(decode(Failure, json.loads(line)))
        except (ValueError, SchemaError):
            continue
    return found


def _from_line(line: str, origin: str) -> RunRecord:
    plain = plain_json(line, origin)
    if isinstance(plain, dict) and MARK in plain:
        raise RecordError(f"{origin}: figures imported from a log are no records: keep them in a file of their own")
    return from_plain(plain, origin)
