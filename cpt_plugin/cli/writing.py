"""Files that commands write where a person said: whole or not at all, and an error in words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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


def write_beside(files: Mapping[Path, str]) -> ConfigError | None:
    """Write the copies of something that is printed as well; returns, instead of raising, why one was not written.

    None also where all files hold these very texts already, which is said on stderr: a finished table on a read-only
    file system is no failure.
    """
    try:
        for path, text in files.items():
            write_file(path, text)
    except ConfigError as error:
        if not all(_holds(path, text) for path, text in files.items()):
            return error
        print(f"not written again, the same is there: {error}", file=sys.stderr)
    return None


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing; raises as :func:`write_file` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written ({error.strerror or error}): name another place, or make room there")
