"""Counting what a step asks of a device."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_NO_WORK = frozenset(
    {"detach", "_unsafe_view", "_reshape_alias", "empty", "empty_like", "new_empty", "empty_strided", "alias"}
)


class DeviceCalls(TorchDispatchMode):
    """Counts the operator calls inside it that would launch at least one kernel on a GPU, by name.

    Views and allocations are left out. A lower bound of the kernels: a few operators launch several.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _NO_WORK:
            self.by_name[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.by_name.total()
