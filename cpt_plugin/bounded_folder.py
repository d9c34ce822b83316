"""A folder of cached files that stays below a size; what was not used for longest makes room."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_ABANDONED_SECONDS = 3600.0


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/cpt-plugin/<name>``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpt-plugin" / name


class BoundedFolder:
    """The files of one kind, told by their suffix, in a folder; together at most ``max_bytes``.

    Several processes may share it. Those that write at the same moment do not see each other's file, which the next
    one to write makes up for.
    """

    def __init__(self, folder: Path, suffix: str, max_bytes: float) -> None:
        self.folder, self.suffix, self.max_bytes = folder, suffix, max_bytes

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / f"{key}{self.suffix}"

    def touch(self, path: Path) -> None:
        """Note that a file was used, if the folder can be written."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def make_room(self, needed: int, path: Path) -> None:
        """Make the folder ready for a new file ``path`` of so many bytes, at most ``max_bytes``.

        What a killed process left half-written an hour ago or earlier is removed as well.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for other in self.folder.glob(f"*{self.suffix}*"):
            try:
                status = other.stat()
            except FileNotFoundError:  # another process has removed it
                continue
            if other.suffix == self.suffix:
                if other != path:
                    entries.append((status.st_mtime_ns, status.st_size, other))
            elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                other.unlink(missing_ok=True)
        used = sum(size for _, size, _ in entries)
        for _, size, other in sorted(entries):
            if used + needed <= self.max_bytes:
                return
            other.unlink(missing_ok=True)
            used -= size
