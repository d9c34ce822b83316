"""One process at a time on a run's folder, or on a file that is downloaded; standard library only."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

POLL_SECONDS = 1.0


@contextmanager
def only_process(folder: Path, name: str = "") -> Iterator[None]:
    """Hold a folder, or one file name in it, for this process; while another one holds it, say so and wait.

    The system releases the hold of a process that dies, however it dies. The hidden lock file stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / (f".{name.lstrip('.')}.lock" if name else ".lock")).open("w") as lock:
        if not _taken(lock):
            place = folder / name if name else folder
            print(f"another process is working on {place}: waiting for it (Ctrl-C to leave)", file=sys.stderr)
            while not _taken(lock):
                time.sleep(POLL_SECONDS)
        yield


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
