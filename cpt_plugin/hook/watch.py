"""Watches what a trainer does between its loss and ``backward()``: loss scaling by a GradScaler, a factor in front."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_MULTIPLYING = tuple(
    f"{name}Backward"
    for name in ("Mul", "Div", "Neg", "Add", "Sub", "View", "Squeeze", "Unsqueeze", "ToCopy", "Clone", "Alias")
)
_MOST_TERMS = 64
_LOCK = threading.RLock()
_ACTIVE = threading.local()


class BackwardWatch:
    """What a step did to its loss, seen at calls of ``backward()``, ``torch.autograd.grad`` and ``GradScaler.scale``.

    Attributes:
        before: called when a loss is about to be back-propagated, before any gradient of it is there.
    """

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self._before = before
        self._start()

    def _start(self) -> None:
        self._trunk: list[Tensor] = []
        self._branches: list[Tensor] = []
        self._scaled: list[tuple[Tensor, Any]] = []
        self._roots: tuple[Tensor, ...] = ()
        self._depth = 0

    @property
    def factor(self) -> Tensor | None:
        """What stands in front of the loss that is back-propagated now, or was last; None where that was not seen.

        The scale of a GradScaler is divided out. It is 1 / n for ``(a + b) / n`` and for ``a / n + b / n``, and 1 where
        the terms of a sum have different factors.
        """
        if not self._trunk:
            return None
        arrived = torch.stack(self._branches or self._trunk)
        alike = (arrived - arrived[0]).abs().amax() <= 1e-6 * arrived[0].abs()
        factor = torch.where(alike, arrived[0], self._trunk[0])
        return factor / self.loss_scale(factor)

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
        self._start()
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
        handles: list[Any] = []
        if not self._depth:
            self._roots = tuple(leaf for leaf in tree_leaves(roots) if isinstance(leaf, Tensor))
            self._trunk, self._branches = [], []
            self._before()
            trunks = [_below_factors(root.grad_fn) for root in self._roots if root.numel() == 1]
            for trunk in filter(None, trunks):
                handles.append(trunk.register_prehook(_noted(self._trunk)))
                handles += [node.register_prehook(_noted(self._branches)) for node in _terms(trunk)]
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            for handle in handles:
                handle.remove()

    def note_scaled(self, value: Any, scaler: Any) -> None:
        """A GradScaler made this of a loss."""
        self._scaled += [(leaf, scaler) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _noted(arrived: list[Tensor]) -> Callable[[tuple[Tensor | None, ...]], None]:
    def note(gradients: tuple[Tensor | None, ...]) -> None:
        present = [gradient for gradient in gradients if gradient is not None]
        if len(present) == 1 and present[0].numel() == 1:
            arrived.append(present[0].detach().double().reshape(()))

    return note


def _below_factors(node: Any) -> Any:
    """From a node of a scalar's graph, the first that neither multiplies by a constant nor only changes the shape."""
    while node is not None and len(following := _following(node)) == 1 and _multiplies(node):
        node = following[0]
    return node


def _terms(node: Any) -> list[Any]:
    """The nodes of the terms of a sum, below the factors in front of each; the node itself where it is no sum."""
    waiting: list[Any] = [node]
    terms: list[Any] = []
    while waiting and len(terms) < _MOST_TERMS:
        at = waiting.pop()
        if type(at).__name__.startswith(("AddBackward", "SubBackward")):
            waiting += [_below_factors(following) for following in _following(at)]
        else:
            terms.append(at)
    return terms


def _following(node: Any) -> list[Any]:
    return [function for function, _ in node.next_functions if function is not None]


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
