"""Watches what a trainer does between its loss and ``backward()``: loss scaling by a GradScaler, a factor in front."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_MULTIPLYING = tuple(
    f"{name}Backward"
    for name in ("Mul", "Div", "Neg", "Add", "Sub", "View", "Squeeze", "Unsqueeze", "ToCopy", "Clone", "Alias")
)
_DEEPEST = 64
"""Sums within sums that are looked into."""
_LOCK = threading.RLock()
_ACTIVE = threading.local()


class BackwardWatch:
    """What a step did to its loss, seen at calls of ``backward()``, ``torch.autograd.grad`` and ``GradScaler.scale``.

    Attributes:
        before: called when a loss is about to be back-propagated, before any gradient of it is there, with whether its
            gradients will be added to those that parameters have (``backward()``) or only be returned.
    """

    def __init__(self, before: Callable[[bool], None] = lambda accumulates: None) -> None:
        self._before = before
        self._start()

    def _start(self) -> None:
        self._terms: list[_Term] = []
        self._scaled: list[tuple[Tensor, Any]] = []
        self._roots: tuple[Tensor, ...] = ()
        self._depth = 0

    @property
    def factor(self) -> Tensor | None:
        """What stands in front of the loss that is back-propagated now, or was last; None where that was not seen.

        The scale of a GradScaler is divided out. It is 1 / n for ``(a + b) / n`` and for ``a / n + b / n``, and 1 where
        the terms of a sum have different factors.
        """
        factors = [factor for term in self._terms if (factor := term.factor()) is not None]
        if not factors:
            return None
        factor = _common(factors, factors[0])
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
    def back_propagating(self, roots: Any, accumulates: bool) -> Iterator[None]:
        """During a call that back-propagates ``roots``; calls inside it do not count."""
        if not self._depth:
            self._roots = tuple(leaf for leaf in tree_leaves(roots) if isinstance(leaf, Tensor))
            self._terms = [_Term(root.grad_fn, root.output_nr) for root in self._roots if _is_loss(root)]
            self._before(accumulates)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                for term in self._terms:
                    term.release()

    def note_scaled(self, value: Any, scaler: Any) -> None:
        """A GradScaler made this of a loss."""
        self._scaled += [(leaf, scaler) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class _Term:
    """A scalar below the factors in front of it: the gradient that arrives there, and the terms of which it is the sum.

    node, place: a node of the graph and which of its outputs is meant.
    """

    def __init__(self, node: Any, place: int, depth: int = 0) -> None:
        while len(following := _following(node)) == 1 and _multiplies(node):
            ((node, place),) = following
        self._place = place
        self._arrived: Tensor | None = None
        self._handle = node.register_prehook(self._note)
        is_sum = type(node).__name__.startswith(("AddBackward", "SubBackward")) and depth < _DEEPEST
        self._terms = [_Term(*term, depth + 1) for term in following] if is_sum else []

    def _note(self, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[self._place]
        if gradient is not None and gradient.numel() == 1:
            self._arrived = gradient.detach().double().reshape(())

    def factor(self) -> Tensor | None:
        """What stands in front of all terms alike, else in front of the sum; None before its gradient is there."""
        factors = [factor for term in self._terms if (factor := term.factor()) is not None]
        return _common(factors, self._arrived) if factors and self._arrived is not None else self._arrived

    def release(self) -> None:
        """Let go of the graph."""
        self._handle.remove()
        for term in self._terms:
            term.release()


def _common(factors: list[Tensor], otherwise: Tensor) -> Tensor:
    """The first of several factors where all are the same; nothing is transferred."""
    arrived = torch.stack([factor.to(otherwise.device) for factor in factors])
    alike = (arrived - arrived[0]).abs().amax() <= 1e-6 * arrived[0].abs()
    return torch.where(alike, arrived[0], otherwise)


def _is_loss(root: Tensor) -> bool:
    return root.numel() == 1 and root.grad_fn is not None


def _following(node: Any) -> list[tuple[Any, int]]:
    return [(function, place) for function, place in node.next_functions if function is not None]


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
    _replace(torch.autograd, "backward", partial(_watched_backward, accumulates=True))
    _replace(torch.autograd, "grad", partial(_watched_backward, accumulates=False))
    _replace(scaler, "scale", _watched_scale)


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    _originals[owner, name] = original = getattr(owner, name)
    setattr(owner, name, wrap(original))


def _watched_backward(original: Any, accumulates: bool) -> Any:
    def backward(*args: Any, **kwargs: Any) -> Any:
        watch = getattr(_ACTIVE, "watch", None)
        if watch is None:
            return original(*args, **kwargs)
        roots = args[0] if args else kwargs.get("tensors", kwargs.get("outputs"))
        with watch.back_propagating(roots, accumulates):
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
