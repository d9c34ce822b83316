"""Files that are either the old version or the new one, whole, whatever happens while they are written.

Standard library only: command-line checks use it before torch is installed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20
_NO_DIRECTORY_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def temporary_sibling(path: Path) -> Path:
    """Return the name under which this process writes ``path`` before renaming it."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a crash or power cut leaves the old file or the new one, whole.

    A temporary sibling is written and fsynced, renamed over ``path``, and the directory is fsynced. When
    that fails the temporary file is removed; after a kill it stays, and no reader ever looks at it. One
    process must not write the same path from two threads at once.

    Raises:
        OSError: the data could not be made durable; ``path`` is still whole.
    """
    path = Path(path)
    temporary = temporary_sibling(path)
    try:
        _write_durably(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 with :func:`atomic_write`; line ends are kept as given."""
    atomic_write(path, text.encode("utf-8"))


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys and a final newline with :func:`atomic_write`.

    Raises:
        TypeError, ValueError: ``value`` is not plain JSON (NaN and infinities are not); nothing is written.
    """
    atomic_write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest[:_CHUNK_BYTES]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make renames in a directory durable, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:  # some network file systems cannot do it at all
            raise
    finally:
        os.close(descriptor)


def append_line(path: str | Path, text: str) -> None:
    """Add one line to a file that several processes add to at once; none is lost, torn or mixed with another.

    What a killed process may have left of a line is ended first, so that it spoils no other one.

    Raises:
        ValueError: ``text`` holds a line break.
        OSError: it could not be written.
    """
    if "\n" in text:
        raise ValueError("one line at a time")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        end = os.lseek(descriptor, 0, os.SEEK_END)
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        rest = memoryview((b"\n" if torn else b"") + text.encode("utf-8") + b"\n")
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
