"""Anchoring of text prototypes to frozen CLIP's: the L_RS term of CPT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cpt_plugin.functional._checks import check_frozen, check_text
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype

DEAD_ZONE = 1e-6


def rotation_stabilization(text: Tensor, frozen_text: Tensor) -> Tensor:
    r"""Mean L1 distance of unit text features to the unit features of frozen CLIP.

    .. math::
        L = \frac{1}{K} \sum_{c=1}^{K} \lVert \bar g_c - \hat{\bar g}_c \rVert_1

    with g_c the text feature of class c under the learned prompts, \hat g_c that of frozen CLIP for a plain
    template, both scaled to length 1; the L1 norm sums over the d dimensions. It fixes the rotation that the
    ETF term leaves free.

    The derivative is 0 for every component with \|difference\| < 1e-6, while the value keeps it: where
    prompts start at the template the difference is rounding noise, whose sign would otherwise be a full-size
    gradient.

    Args:
        text: (K, d), or (B, K, d) for per-image text features, which are averaged over B; any length.
        frozen_text: (K, d) in the same class order; a constant, no gradient flows to it.

    Returns:
        Scalar in 0 .. 2 sqrt(d), in float32, or float64 if an input is float64.

    Raises:
        FeatureError: shapes, types or devices do not fit.

    Source: CPT (CVPR 2026), loss L_RS; unit length and the dead zone are our reading.

    Example:
        >>> rotation_stabilization(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 0.0]]))
        tensor(2.)
    """
    check_text(text)
    check_frozen(frozen_text, text)
    with full_precision(text):
        difference = unit_difference(text, frozen_text)
        return _DeadZoneL1.apply(difference) / (difference.numel() // difference.shape[-1])


def live_fraction(text: Tensor, frozen_text: Tensor) -> Tensor:
    """Fraction, in 0 .. 1, of the components in which :func:`rotation_stabilization` has a derivative; same inputs."""
    with torch.no_grad(), full_precision(text):
        return (unit_difference(text, frozen_text).abs() >= DEAD_ZONE).double().mean()


def unit_difference(text: Tensor, frozen_text: Tensor) -> Tensor:
    """Unit text features minus unit frozen ones, in at least float32, shaped like the text."""
    dtype = working_dtype(text, frozen_text)
    return unit(text, dtype) - unit(frozen_text.detach(), dtype)


class _DeadZoneL1(torch.autograd.Function):
    """Sum of absolute values whose derivative is the sign outside the dead zone and 0 inside."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.set_materialize_grads(False)
        return difference.abs().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return None
        (difference,) = ctx.saved_tensors
        signs = difference.sign().masked_fill_(difference.abs() < DEAD_ZONE, 0.0)
        return signs * gradient
