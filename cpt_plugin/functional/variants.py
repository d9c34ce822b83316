"""Variants of the CPT terms, ours: class weights, targets from frozen CLIP, learned radii, schedules."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.errors import ConfigError
from cpt_plugin.functional._checks import Labels, Numbers, check_frozen, check_text, class_numbers, of_each_class
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype
from cpt_plugin.functional.etf import ClusterBuckets, checked_buckets, pair_scales
from cpt_plugin.functional.rotation import DEAD_ZONE, unit_difference

SCHEDULES = ("constant", "falling", "rising")


def schedule_factor(schedule: str, progress: float) -> float:
    r"""Factor of a loss term at a point of the training.

    .. math::
        s(p) = 1, \quad \tfrac12 (1 + \cos \pi p), \quad \tfrac12 (1 - \cos \pi p)

    for "constant", "falling" (1 to 0) and "rising" (0 to 1), with p in [0, 1] the finished part of the training.

    Raises:
        ConfigError: the schedule is unknown, or p is not in [0, 1].
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule {schedule!r}; use one of {', '.join(SCHEDULES)}")
    progress = number("progress", progress, least=0, most=1)
    if schedule == "constant":
        return 1.0
    sign = 1 if schedule == "falling" else -1
    return 0.5 * (1 + sign * math.cos(math.pi * progress))


def class_weights(counts: Numbers, power: float) -> Tensor:
    r"""Weights of classes that fall with their number of training images and have mean 1.

    .. math::
        v_c = \frac{K n_c^{-a}}{\sum_{k=1}^{K} n_k^{-a}}

    with n_c the training images of class c of K, at least 1, and a the power >= 0; 0 gives 1 for each class.

    Returns:
        (K,) in float64, on the device of the counts.

    Raises:
        FeatureError: counts are not (K,), or one is negative or not finite.
        ConfigError: the power is negative or not finite.
    """
    raw = class_numbers(counts, "counts").clamp(min=1) ** -number("power", power, least=0)
    return raw / raw.mean()


def pair_separation(
    text: Tensor,
    assignment: Labels | ClusterBuckets,
    reduction: str = "frobenius",
    weights: Numbers | None = None,
    frozen_text: Tensor | None = None,
    margin: float = 0.0,
) -> Tensor:
    r"""ETF term with weighted pairs, and with targets of each pair's own.

    .. math::
        L = \frac{1}{M} \sum_{m=1}^{M} \sum_{i \ne j \in S_m} \frac{v_i + v_j}{2} \big(c_{ij} - t_{ij}\big)^2

    with S_m the m-th of M clusters and c_ij the cosine of the text features of classes i and j. Without frozen
    features t_ij = -1 / (k_m - 1), k_m the number of classes of the cluster: the simplex of
    :func:`~cpt_plugin.functional.etf_separation`, and this is that term where all weights v are 1. With them

    .. math::
        t_{ij} = \max(c^0_{ij} - \mu, -1)

    with c^0 the cosine of the frozen features: each pair is to be mu further apart than in frozen CLIP, which keeps
    the geometry that a simplex would level. The reduction "pair_mean" replaces the sum over the pairs by their number
    k_m (k_m - 1), and M counts clusters of two or more classes only. Weights of mean 1 over all classes leave the size
    of the term as it is; within one cluster their mean may be another.

    Args:
        text: (K, d), or (B, K, d) for per-image text features, over which the term is averaged; any length.
        assignment: (K,) cluster ids, or their :class:`ClusterBuckets`.
        reduction: "frobenius" or "pair_mean".
        weights: (K,) weights v of the classes, >= 0; default 1.
        frozen_text: (K, d) in the same class order, a constant; default: the simplex.
        margin: mu, finite and >= 0; without effect for the simplex.

    Returns:
        Scalar >= 0 in float32, or float64 for float64 text.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a weight is negative or not finite.
        ConfigError: the reduction is unknown, or the margin is negative or not finite.

    Source: ours, after CPT's L_TETF (CVPR 2026).
    """
    buckets = checked_buckets(text, assignment, reduction)
    margin = number("margin", margin, least=0)
    if frozen_text is not None:
        check_frozen(frozen_text, text)
    with full_precision(text):
        dtype = working_dtype(text)
        members = unit(text.index_select(-2, buckets.order), dtype)
        if not buckets.blocks:
            return members.sum()
        rows = [count * size for count, size in buckets.blocks]
        v = _weights(weights, text, dtype).index_select(0, buckets.order).split(rows)
        frozen = None if frozen_text is None else frozen_text.detach().index_select(0, buckets.order)
        anchors = [None] * len(rows) if frozen is None else unit(frozen, dtype).split(rows)
        blocks = zip(members.split(rows, dim=-2), v, anchors, buckets.blocks, strict=True)
        scaled = zip(pair_scales(buckets, reduction), blocks, strict=True)
        sums = [scale * _gap_sum(*block, margin=margin) for scale, block in scaled]
        copies = members.shape[0] if members.ndim == 3 else 1
        return torch.stack(sums).sum() / copies


def _gap_sum(members: Tensor, v: Tensor, anchors: Tensor | None, block: tuple[int, int], margin: float) -> Tensor:
    """Weighted sum of squared gaps of n clusters of k classes; members (n k, d) or (B, n k, d), anchors (n k, d)."""
    count, size = block
    clusters = members.unflatten(-2, (count, size))
    cosines = clusters @ clusters.mT
    target: Tensor | float = -1 / (size - 1)
    if anchors is not None:
        frozen = anchors.unflatten(-2, (count, size))
        target = (frozen @ frozen.mT - margin).clamp(min=-1)
    pairs = v.view(count, size, 1) / 2 + v.view(count, 1, size) / 2
    others = 1 - torch.eye(size, dtype=pairs.dtype, device=pairs.device)
    return (pairs * others * (cosines - target).square()).sum()


def weighted_rotation(text: Tensor, frozen_text: Tensor, weights: Numbers) -> Tensor:
    r"""Rotation term with weighted classes.

    .. math::
        L = \frac{1}{K} \sum_{c=1}^{K} v_c \lVert \bar g_c - \hat{\bar g}_c \rVert_1

    Inputs, dead zone and errors as in :func:`~cpt_plugin.functional.rotation_stabilization`, which it is where all
    weights v, (K,) and >= 0, are 1.

    Source: ours, after CPT's L_RS (CVPR 2026).
    """
    check_text(text)
    check_frozen(frozen_text, text)
    with full_precision(text):
        difference = unit_difference(text, frozen_text)
        live = torch.where(difference.abs() < DEAD_ZONE, difference.detach(), difference)
        return (_weights(weights, text, difference.dtype) * live.abs().sum(-1)).mean()


def squared_rotations(text: Tensor, frozen_text: Tensor) -> Tensor:
    """Squared distances d_c^2 in 0 .. 4 of unit text features to unit frozen ones, (K,); the mean over B of (B, K, d).

    Raises:
        FeatureError: shapes, types or devices do not fit.
    """
    check_text(text)
    check_frozen(frozen_text, text)
    with full_precision(text):
        squares = unit_difference(text, frozen_text).square().sum(-1)
        return squares.mean(0) if squares.ndim == 2 else squares


def gaussian_anchoring(
    text: Tensor, frozen_text: Tensor, squared_radii: Numbers, weights: Numbers | None = None
) -> Tensor:
    r"""Negative log likelihood of the text features under a Gaussian of each class around its frozen feature.

    .. math::
        L = \frac{1}{K} \sum_{c=1}^{K} v_c \Big( \frac{d_c^2}{2 r_c^2} + \log r_c \Big)

    with d_c the Euclidean distance of unit tuned and frozen text feature, r_c the radius and v_c the weight of class
    c. Radii are constants, so the gradient is v_c d_c / (K r_c^2) along the direction of the distance: a class is held
    the more loosely the larger its radius. Additive constants of the density are left out; L may be negative.

    Args:
        text: (K, d), or (B, K, d) for per-image text features, over which d_c^2 is averaged; any length.
        frozen_text: (K, d) in the same class order, a constant.
        squared_radii: (K,) r_c^2 > 0, a constant.
        weights: (K,) v_c >= 0; default 1.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a radius or weight is out of range.

    Source: ours, in the place of CPT's L_RS.
    """
    squares = squared_rotations(text, frozen_text)
    radii = of_each_class(squared_radii, "squared_radii", text, text.shape[-2], above_zero=True).to(squares.dtype)
    return (_weights(weights, text, squares.dtype) * (squares / (2 * radii) + radii.log() / 2)).mean()


def _weights(values: Numbers | None, text: Tensor, dtype: torch.dtype) -> Tensor:
    """(K,) constants on the text's device; ones for None."""
    classes = text.shape[-2]
    if values is None:
        return torch.ones(classes, dtype=dtype, device=text.device)
    return of_each_class(values, "weights", text, classes).to(dtype)
