"""Bytes that a computation keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class KeptBytes:
    """Bytes of the distinct storages that were saved; holds no tensor itself."""

    def __init__(self, frozen: Iterable[Tensor]) -> None:
        self._frozen = {_identity(tensor) for tensor in frozen}
        self._sizes: dict[int, int] = {}

    @property
    def total(self) -> int:
        return sum(self._sizes.values())

    def keep(self, tensor: Tensor) -> Tensor:
        identity = _identity(tensor)
        if identity not in self._frozen:
            self._sizes[identity] = max(tensor.untyped_storage().nbytes(), self._sizes.get(identity, 0))
        return tensor


@contextmanager
def kept_bytes(frozen: Iterable[Tensor]) -> Iterator[KeptBytes]:
    """Counts what is saved for the backward pass within the context, the given tensors (frozen weights) aside."""
    found = KeptBytes(frozen)
    with torch.autograd.graph.saved_tensors_hooks(found.keep, lambda tensor: tensor):
        yield found


def _identity(tensor: Tensor) -> int:
    """Of the storage, also on the meta device, where every address is 0."""
    return tensor.untyped_storage()._cdata
