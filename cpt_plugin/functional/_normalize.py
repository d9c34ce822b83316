"""Precision and unit length of features, the first step of every loss."""

from __future__ import annotations

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


def lengths(features: Tensor) -> Tensor:
    """Return the Euclidean lengths along the last dimension, (..., 1), with 1 in place of 0."""
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return torch.where(norms > 0, norms, 1.0)


def unit(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale the last dimension to length 1, in `dtype`.

    A zero vector stays zero and receives a finite gradient, so it never produces a NaN.
    """
    return _Unit.apply(features.to(dtype))


class _Unit(torch.autograd.Function):
    """y = x / ||x|| with dL/dx = (g - y <y, g>) / ||x||, in fewer passes over memory than autograd takes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        norms = lengths(features)
        units = features / norms
        ctx.save_for_backward(features, units, norms)
        return units

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        features, units, norms = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: connect the lengths to the features
            norms = lengths(features)
        along = torch.einsum("...d,...d->...", units, gradient).unsqueeze(-1)
        return torch.addcmul(gradient, units, along, value=-1) / norms
