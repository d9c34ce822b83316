"""Files that commands write where a person said: whole or not at all, and an error in words."""

from __future__ import annotations

from pathlib import Path

from cpt_plugin.atomic import atomic_write
from cpt_plugin.errors import ConfigError


def write_file(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to a file whose folder is made when missing.

    What of a text is no character (part of a file's name that is not UTF-8) is written as its escape.

    Raises:
        ConfigError: the file or its folder cannot be written (a folder is a file, no permission, a full disk).
    """
    make_folder(path.parent)
    try:
        atomic_write(path, data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
    except OSError as error:
        raise _unwritable(path, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing; raises as :func:`write_file` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written ({error.strerror or error}): name another place, or make room there")
