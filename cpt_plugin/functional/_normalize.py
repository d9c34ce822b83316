"""Precision and unit length of features, the first step of every loss."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def working_dtype(*features: Tensor) -> torch.dtype:
    """Return the widest floating type among the tensors, at least float32."""
    return reduce(torch.promote_types, (value.dtype for value in features), torch.float32)


def full_precision(features: Tensor) -> AbstractContextManager[None]:
    """Return a context in which autocast does not apply to the features' device."""
    kind = features.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def unit(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale the last dimension to length 1, in `dtype`, whatever finite length it has.

    A zero vector stays zero and receives a finite gradient, so it never produces a NaN. One with NaN or infinity has a
    NaN in it afterwards. A vector longer or shorter than its squares can be summed is multiplied by a power of two
    first, which is exact: no bit of the result depends on whether it was.
    """
    return _Unit.apply(features.to(dtype))


def safely_scaled(rows: Tensor) -> Tensor:
    """Rows (n, d) times one power of two for all, usually 1, so that squares of the longest stay in range."""
    return rows * _powers_of_two(_norms(rows).amax())


class _Unit(torch.autograd.Function):
    """y = x / ||x|| with dL/dx = (g - y <y, g>) / ||x||, in fewer passes over memory than autograd takes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        scaled, norms, factors = features, _norms(features), None
        if not _surely_in_range(norms):
            factors = _powers_of_two(norms)
            scaled = features * factors
            norms = _norms(scaled)
            factors.masked_fill_(norms == 0, 1.0)
        norms = _without_zeros(norms)
        units = scaled / norms
        ctx.save_for_backward(features, units, norms, factors)
        ctx.set_materialize_grads(False)
        return units

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return None
        features, units, norms, factors = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: connect the lengths to the features
            norms = _without_zeros(_norms(features if factors is None else features * factors))
        along = torch.einsum("...d,...d->...", units, gradient).unsqueeze(-1)
        of_scaled = torch.addcmul(gradient, units, along, value=-1) / norms
        return of_scaled if factors is None else of_scaled * factors


def _norms(features: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features, dim=-1, keepdim=True)


def _without_zeros(norms: Tensor) -> Tensor:
    return torch.where(norms == 0, 1.0, norms)


def _surely_in_range(norms: Tensor) -> bool:
    """Whether the host knows, without waiting for a device, that no sum of squares has left the range of its type."""
    if norms.device.type != "cpu":
        return False
    low, high, _ = _bounds(norms.dtype)
    return bool(((norms > low) & (norms < high)).all())


def _powers_of_two(norms: Tensor) -> Tensor:
    """Factors that bring vectors of such computed lengths (0 and infinity included) to lengths safe to compute."""
    low, high, factor = _bounds(norms.dtype)
    return torch.ones_like(norms).masked_fill_(norms < low, factor).masked_fill_(norms > high, 1 / factor)


def _bounds(dtype: torch.dtype) -> tuple[float, float, float]:
    """Smallest and largest safe length, and the power of two that leads shorter vectors there, its inverse longer ones.

    Half the exponents are left to the squares, and of these a quarter to small entries and to the sum: in float32,
    2^-48 .. 2^48 and 2^90.
    """
    exponents = math.frexp(torch.finfo(dtype).max)[1]
    return 2.0 ** -(exponents * 3 // 8), 2.0 ** (exponents * 3 // 8), 2.0 ** (exponents * 7 // 10 + 1)
