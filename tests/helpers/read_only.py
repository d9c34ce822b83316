"""A folder as it is on a read-only file system, whoever the process runs as."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Opening for writing, making, renaming and removing below ``folder`` fail as they do there."""

    def refused(path: Any) -> bool:
        return not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(folder)

    def guarded(call: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def guard(path: Any, *args: Any, **kwargs: Any) -> Any:
            if refused(path) and writes(*args, **kwargs) and not (call is os.mkdir and os.path.isdir(path)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
            return call(path, *args, **kwargs)

        return guard

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", guarded(io.open, lambda mode="r", *_, **__: any(sign in mode for sign in "wax+")))
        patch.setattr(os, "open", guarded(os.open, lambda flags, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR))))
        for name in ("mkdir", "replace", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))
        yield
