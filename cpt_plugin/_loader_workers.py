"""Data loader workers that run out of memory: noticed where it happens, and said in one line."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from cpt_plugin.errors import CPTError, TrainingError

T = TypeVar("T")
SHARED_MEMORY = "/dev/shm"
_DIED = re.compile(r"DataLoader worker \(pid.*?\) (is killed by signal: [^.]*|exited unexpectedly)")
_NOT_SHARED = re.compile(r"[^\n:]*</torch_[^\n]*$")
_NO_MEMORY = "Caught MemoryError in DataLoader worker"
_NO_FILES = re.compile(r"Too many open files\. Communication with the workers|received \d+ items of ancdata")
_STARTING = ("EAGAIN", "ENOMEM", "ENOSPC", "ENOSYS", "EMFILE", "ENFILE", "EACCES", "ENOENT")
_REMEDY = (
    "give the machine or the container more memory and a larger /dev/shm (docker run --shm-size 2g), take smaller "
    "batches, or read images without workers: DATALOADER.NUM_WORKERS 0"
)


def shared(value: T) -> T:
    """A batch, whose tensors are in shared memory if this is a worker of a data loader.

    The loader would move them there itself, in a thread whose errors nobody hears of: the program would wait for ever.
    """
    if get_worker_info() is not None:
        _share(value)
    return value


def collate(items: list[Any]) -> Any:
    """A :func:`shared` batch of the items, as torch makes it."""
    return shared(default_collate(items))


@contextmanager
def worker_failures_named(starting: bool = False) -> Iterator[None]:
    """Turn the errors of torch that mean that workers lack memory into one line with the remedy.

    The death of a worker may reach the program anywhere in its work on a batch.

    Args:
        starting: whether workers are started within, and nothing else that writes files.

    Raises:
        TrainingError: in the place of these; every other error passes.
    """
    try:
        yield
    except CPTError:
        raise
    except (RuntimeError, OSError, MemoryError) as error:
        found = _reason(error, starting)
        if found is None:
            raise
        raise TrainingError(f"{found}; {_room()}: {_REMEDY}") from error


def _reason(error: BaseException, starting: bool) -> str | None:
    text = str(error)
    if died := _DIED.search(text):
        return f"a data loader worker {died[1]}, as happens for want of memory or of shared memory"
    if refused := _NOT_SHARED.search(text):
        return f"a data loader worker got no shared memory ({refused[0].strip()})"
    if _NO_MEMORY in text:
        return "a data loader worker got no memory"
    if _NO_FILES.search(text):
        return "data loader workers have too many open files (`ulimit -n` allows more) or no shared memory"
    named = isinstance(error, OSError) and error.filename is None and errno.errorcode.get(error.errno or 0)
    if starting and named in _STARTING:
        return f"data loader workers cannot be started for want of memory or of shared memory ({error})"
    return None


def _room() -> str:
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError as error:
        return f"{SHARED_MEMORY} cannot be used ({error.strerror})"
    return f"{SHARED_MEMORY} has {_mib(room.total)}, of which {_mib(room.free)} are free"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _share(value: Any) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()
    elif isinstance(value, Mapping):
        for part in value.values():
            _share(part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for part in value:
            _share(part)
