"""Hashes pinned on first use, for files whose makers publish none: ``.cpt-pins.json`` beside them.

Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cpt_plugin._schema import decode
from cpt_plugin.atomic import atomic_write_json
from cpt_plugin.errors import DataError
from cpt_plugin.locking import only_process

FILE = ".cpt-pins.json"


@dataclass(frozen=True)
class Pin:
    """What a file was when it was first seen: SHA-256 in hex, size, and where it came from."""

    sha256: str
    bytes: int
    url: str


def pins_file(path: Path) -> Path:
    """Where the pin of a file is kept."""
    return path.with_name(FILE)


def pinned(path: Path) -> Pin | None:
    """The pin of a file; None when it was never seen.

    Raises:
        DataError: the file of pins is damaged.
    """
    return _read(pins_file(path)).get(path.name)


def pin(path: Path, value: Pin) -> None:
    """Remember what a file is."""
    with only_process(path.parent, FILE):
        pins = _read(pins_file(path)) | {path.name: value}
        atomic_write_json(pins_file(path), {name: asdict(entry) for name, entry in pins.items()})


def _read(file: Path) -> dict[str, Pin]:
    try:
        pins: dict[str, Pin] = decode(dict[str, Pin], json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): correct it, or remove it to pin the files anew") from error
    return pins
