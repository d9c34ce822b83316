"""Watches what a trainer does between its loss and ``backward()``: loss scaling by a GradScaler, a factor in front."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_MULTIPLYING = tuple(
    f"{name}Backward" for name in ("Mul", "Div", "Neg", "View", "Squeeze", "Unsqueeze", "ToCopy", "Clone", "Alias")
)
_LOCK = threading.RLock()
_ACTIVE = threading.local()


class BackwardWatch:
    """What a step did to its loss, seen at calls of ``backward()``, ``torch.autograd.grad`` and ``GradScaler.scale``.

    Attributes:
        factor: what stands in front of the last loss that was back-propagated, the scale of a GradScaler divided out:
            1 / n for ``scaler.scale((a + b) / n).backward()``; None where no such call was seen.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self._scaled: list[tuple[Tensor, Any]] = []
        self._roots: tuple[Tensor, ...] = ()
        self._depth = 0

    @property
    def scaled_beside(self) -> bool:
        """Whether a GradScaler was used in this step on something else than the loss that was back-propagated."""
        return bool(self._scaled) and self._scaler() is None

    def loss_scale(self, like: Tensor) -> Tensor:
        """What the GradScaler multiplied the loss by, a scalar of the type of ``like``; 1 without one."""
        scaler = self._scaler()
        if scaler is None and self._scaled:
            scaler = self._scaled[-1][1]
        one = torch.ones_like(like, dtype=torch.float32)
        if scaler is None:
            return one.to(like.dtype)
        with self._unwatched():
            return scaler.scale(one).to(like.dtype)

    def _scaler(self) -> Any:
        return next((scaler for value, scaler in self._scaled if any(value is root for root in self._roots)), None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread's training step."""
        self.__init__()  # type: ignore[misc]
        before = getattr(_ACTIVE, "watch", None)
        with _patched():
            _ACTIVE.watch = self
            try:
                yield
            finally:
                _ACTIVE.watch = before
                self._scaled, self._roots = [], ()

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        before, _ACTIVE.watch = getattr(_ACTIVE, "watch", None), None
        try:
            yield
        finally:
            _ACTIVE.watch = before

    @contextmanager
    def back_propagating(self, roots: Any) -> Iterator[None]:
        """During a call that back-propagates ``roots``; calls inside it do not count."""
        tensors = (roots,) if isinstance(roots, Tensor) else tuple(roots) if isinstance(roots, Sequence) else ()
        handle = None
        if not self._depth:
            self._roots, self.factor = tensors, None
            node = _below_factors(tensors[0]) if len(tensors) == 1 else None
            if node is not None:
                handle = node.register_prehook(self._arrived)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if handle is not None:
                handle.remove()

    def _arrived(self, gradients: tuple[Tensor | None, ...]) -> None:
        if self.factor is None and gradients[0] is not None and gradients[0].numel() == 1:
            factor = gradients[0].detach().double().reshape(())
            self.factor = factor / self.loss_scale(factor)

    def note_scaled(self, value: Any, scaler: Any) -> None:
        """A GradScaler made this of a loss."""
        if isinstance(value, Tensor):
            self._scaled.append((value, scaler))


def _below_factors(root: Any) -> Any:
    """The first node of a scalar's graph that is neither a multiplication by a constant nor a change of shape."""
    node = root.grad_fn if isinstance(root, Tensor) and root.numel() == 1 else None
    while node is not None:
        following = [function for function, _ in node.next_functions if function is not None]
        if len(following) != 1 or not _multiplies(node):
            break
        node = following[0]
    return node


def _multiplies(node: Any) -> bool:
    """Whether a node of a scalar's graph multiplies by a constant, 1 included."""
    name = type(node).__name__
    if name.startswith(("MeanBackward", "SumBackward")):
        return math.prod(node._saved_self_sym_sizes) == 1
    return name.startswith(_MULTIPLYING)


_patches = 0
_originals: dict[tuple[Any, str], Any] = {}


@contextmanager
def _patched() -> Iterator[None]:
    """While any thread watches, calls of the watched functions tell the watch of their own thread, if it has one."""
    global _patches
    with _LOCK:
        _patches += 1
        if _patches == 1:
            _install()
    try:
        yield
    finally:
        with _LOCK:
            _patches -= 1
            if not _patches:
                for (owner, name), original in _originals.items():
                    setattr(owner, name, original)
                _originals.clear()


def _install() -> None:
    scaler = torch.amp.grad_scaler.GradScaler
    _replace(torch.autograd, "backward", _watched_backward)
    _replace(torch.autograd, "grad", _watched_backward)
    _replace(scaler, "scale", _watched_scale)


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    _originals[owner, name] = original = getattr(owner, name)
    setattr(owner, name, wrap(original))


def _watched_backward(original: Any) -> Any:
    def backward(*args: Any, **kwargs: Any) -> Any:
        watch = getattr(_ACTIVE, "watch", None)
        if watch is None:
            return original(*args, **kwargs)
        roots = args[0] if args else kwargs.get("tensors", kwargs.get("outputs"))
        with watch.back_propagating(roots):
            return original(*args, **kwargs)

    return backward


def _watched_scale(original: Any) -> Any:
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        watch = getattr(_ACTIVE, "watch", None)
        if watch is not None:
            watch.note_scaled(scaled, self)
        return scaled

    return scale
