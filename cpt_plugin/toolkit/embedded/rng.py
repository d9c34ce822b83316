"""Counter-based randomness: every draw follows from the seed and a position, never from earlier draws.

Order, augmentation and dropout therefore come out the same with any number of loader workers and after
any interruption.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

_KEPT: ContextVar[bool] = ContextVar("kept_rng", default=False)


def derive_seed(seed: int, stream: str, *counters: int) -> int:
    """Returns a 63-bit seed that depends on the run's seed, the name of a stream and a position in it."""
    text = "/".join([str(seed), stream, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, stream: str, *counters: int) -> torch.Generator:
    """Returns a private torch generator for a position of a stream (see :func:`derive_seed`)."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, *counters))


def set_random_seed(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, on the CPU and on CUDA devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (third-party trainers draw from the global stream)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def kept_rng() -> Iterator[None]:
    """Puts the global CPU generators' states back afterwards; blocks of :func:`isolated_rng` right inside only seed."""
    with _restored(), _kept(True):
        yield


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seeds the global CPU generators inside the block and puts their former states back afterwards."""
    with nullcontext() if _KEPT.get() else _restored(), _kept(False):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _restored() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.default_generator.set_state(torch_state)


@contextmanager
def _kept(value: bool) -> Iterator[None]:
    token = _KEPT.set(value)
    try:
        yield
    finally:
        _KEPT.reset(token)


def rng_state() -> dict[str, Any]:
    """Returns the states of all global generators as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [kind, torch.tensor(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what :func:`rng_state` returned; CUDA states only where as many devices are visible."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
