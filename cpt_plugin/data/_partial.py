"""The part of a download that is there: ``NAME.part``, and ``NAME.part.json`` saying of what it is a part.

It can be continued after any crash: only bytes that were made durable are counted on, and only while the server still
has the same file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cpt_plugin._schema import decode
from cpt_plugin.atomic import atomic_write_json, sync_directory

_SYNC_BYTES = 64 << 20
_SYNC_SECONDS = 5.0


@dataclass(frozen=True)
class Remote:
    """A file as a server described it.

    Attributes:
        url: where it was asked for.
        validator: a strong ETag, else Last-Modified: changes when the file does; "" where the server gives none.
        total: its length in bytes; 0 where the server does not say.
    """

    url: str
    validator: str = ""
    total: int = 0


@dataclass(frozen=True)
class _State:
    remote: Remote
    durable: int


class Partial:
    """The part of one download that is on the disk.

    Attributes:
        path: the file; never the destination's name.
        size: how many bytes of it count.
        remote: of which file it is a part; None while nothing is there.
    """

    def __init__(self, destination: Path) -> None:
        self.path = destination.with_name(f"{destination.name}.part")
        self._state_path = destination.with_name(f"{destination.name}.part.json")
        self._destination = destination
        self._file: BinaryIO | None = None
        self._recorded, self._when = 0, time.monotonic()
        state = self._read()
        self.remote = state.remote if state else None
        self.size = state.durable if state else 0

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk: what is durable stays as it was recorded
            self.close()

    @property
    def whole(self) -> bool:
        """Whether it has the length that the server gave."""
        return self.remote is not None and 0 < self.remote.total == self.size

    def begin(self, remote: Remote) -> None:
        """Start anew, with nothing."""
        self.discard()
        self.remote = remote
        self._file = self.path.open("wb")
        self._record()

    def resume(self) -> None:
        """Go on after the bytes that count."""
        if self._file is None:
            self._file = self.path.open("r+b")
            self._file.truncate(self.size)
            self._file.seek(self.size)

    def append(self, data: bytes) -> None:
        """Add what came."""
        assert self._file is not None
        self._file.write(data)
        self.size += len(data)
        if self.size - self._recorded >= _SYNC_BYTES or time.monotonic() - self._when >= _SYNC_SECONDS:
            self._record()

    def finish(self, total: int) -> None:
        """Record that all of it came, where the server had not said how much that is."""
        assert self.remote is not None
        self.remote = Remote(self.remote.url, self.remote.validator, total)
        self._record()

    def close(self) -> None:
        """Make what came durable, so that it counts next time."""
        if self._file is not None:
            file = self._file
            try:
                self._record()
            finally:
                self._file = None
                file.close()

    def discard(self) -> None:
        """Forget all of it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._state_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self.remote, self.size = None, 0

    def publish(self) -> None:
        """Give it its final name, whole and durable."""
        self.close()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self._destination)
        self._state_path.unlink(missing_ok=True)
        sync_directory(self._destination.parent)

    def _record(self) -> None:
        assert self._file is not None
        assert self.remote is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        atomic_write_json(self._state_path, asdict(_State(self.remote, self.size)))
        self._recorded, self._when = self.size, time.monotonic()

    def _read(self) -> _State | None:
        try:
            state: _State = decode(_State, json.loads(self._state_path.read_text(encoding="utf-8")))
            return state if 0 <= state.durable <= self.path.stat().st_size else None
        except (OSError, ValueError):
            return None
