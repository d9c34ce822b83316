"""Local simplex-ETF separation of text prototypes: the L_TETF term of CPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional._checks import check_text, shape_of
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype

REDUCTIONS = ("frobenius", "pair_mean")
_INDEX_TYPES = (torch.int64, torch.int32)


@dataclass(frozen=True, eq=False)
class ClusterBuckets:
    """The clusters of an assignment, arranged so that clusters of one size can be computed together.

    Building it waits for the device that holds the assignment; using it does not. A training loop builds it
    once and hands it to :func:`etf_separation` in place of the assignment.

    Attributes:
        order: (n,) class indices of all clusters of two or more classes, cluster after cluster, small ones
            first.
        blocks: (number of clusters, size) for each size, in the order of `order`.
        num_clusters: number of distinct clusters, singletons included.
        num_classes: K.
    """

    order: Tensor
    blocks: tuple[tuple[int, int], ...]
    num_clusters: int
    num_classes: int

    @classmethod
    def from_assignment(cls, assignment: Tensor) -> ClusterBuckets:
        """Sort the classes by size of their cluster, then cluster, then class.

        Raises:
            FeatureError: the assignment is not a non-empty (K,) tensor of integers >= 0.
        """
        if not isinstance(assignment, Tensor):
            raise FeatureError(f"assignment must be an integer tensor, got {type(assignment).__name__}")
        if assignment.ndim != 1 or len(assignment) == 0 or assignment.dtype not in _INDEX_TYPES:
            raise FeatureError(
                f"assignment must be a non-empty (K,) tensor of integer cluster ids, "
                f"got {assignment.dtype} {shape_of(assignment)}"
            )
        ids = assignment.detach().cpu()
        if int(ids.min()) < 0:
            raise FeatureError(f"assignment holds cluster id {int(ids.min())}; give every class one >= 0")
        clusters, inverse, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
        rank = sizes[inverse] * len(clusters) + inverse
        order = torch.argsort(rank, stable=True)[int((sizes == 1).sum()) :]
        size_values, size_counts = torch.unique(sizes[sizes > 1], return_counts=True)
        blocks = tuple(zip(size_counts.tolist(), size_values.tolist(), strict=True))
        return cls(order.to(assignment.device), blocks, len(clusters), len(ids))

    def to(self, device: torch.device) -> ClusterBuckets:
        """Return the same buckets with their indices on `device`."""
        if self.order.device == device:
            return self
        return ClusterBuckets(self.order.to(device), self.blocks, self.num_clusters, self.num_classes)


def etf_separation(
    text: Tensor,
    assignment: Tensor | ClusterBuckets,
    reduction: str = "frobenius",
    include_diagonal: bool = False,
) -> Tensor:
    r"""Distance of each cluster's cosine matrix from that of a simplex equiangular tight frame.

    .. math::
        L = \frac{1}{M} \sum_{m=1}^{M} \sum_{i \ne j \in S_m} \Big(c_{ij} + \frac{1}{k_m - 1}\Big)^2

    with S_m the m-th of M clusters, k_m its number of classes and c_ij the cosine of the text features of the
    classes i and j. This is ``reduction="frobenius"``, the printed form without its diagonal. The diagonal of
    the printed form is the constant k_m for each cluster of two or more classes: ``include_diagonal=True``
    adds it, the gradient is the same. ``reduction="pair_mean"`` replaces the sum over pairs by their mean,
    and the mean over M by the mean over clusters of two or more classes; its weight does not grow with k_m
    (there the diagonal adds k_m / (k_m (k_m - 1)) for each of these clusters).

    Clusters of one class have no pair: they contribute 0, but count in M.
    0 is reached only where the feature dimension is at least k_m - 1.

    Args:
        text: (K, d), or (B, K, d) for per-image text features, which are averaged over B; any length, any
            floating type. Half precision is computed in float32.
        assignment: (K,) cluster id of every class; M is the number of distinct ids. Pass the
            :class:`ClusterBuckets` of the assignment to spare sorting it at every call.
        reduction: "frobenius" (range 0 .. sum_m k_m^3 / (k_m - 1) / M) or "pair_mean" (range 0 .. 4).
        include_diagonal: add the constant diagonal.

    Returns:
        Scalar in float32, or float64 for float64 text. Memory is O(K d + sum_m k_m^2).

    Raises:
        FeatureError: shapes or types do not fit.
        ConfigError: the reduction is unknown.

    Source: CPT (CVPR 2026), loss L_TETF; "pair_mean" is ours.

    Example:
        >>> square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
        >>> etf_separation(square, torch.tensor([0, 0, 1]))  # opposite vectors are the 2-simplex
        tensor(0.)
    """
    buckets = checked_buckets(text, assignment, reduction)
    with full_precision(text):
        members = unit(text.index_select(-2, buckets.order), working_dtype(text))
        if not buckets.blocks:
            return members.sum()
        return _reduce(members, buckets, reduction, include_diagonal)


def checked_buckets(text: Tensor, assignment: Tensor | ClusterBuckets, reduction: str) -> ClusterBuckets:
    """Return the buckets on the text's device.

    Raises:
        FeatureError, ConfigError: as :func:`etf_separation`.
    """
    check_text(text)
    if reduction not in REDUCTIONS:
        raise ConfigError(f"unknown ETF reduction {reduction!r}; use one of {', '.join(REDUCTIONS)}")
    buckets = assignment if isinstance(assignment, ClusterBuckets) else ClusterBuckets.from_assignment(assignment)
    if buckets.num_classes != text.shape[-2]:
        raise FeatureError(
            f"assignment has {buckets.num_classes} classes, text {shape_of(text)} has {text.shape[-2]}; "
            "cluster the classes that are trained"
        )
    return buckets.to(text.device)


def pair_scales(buckets: ClusterBuckets, reduction: str) -> list[float]:
    """Factor of each ordered pair's squared gap in the reduction, for each block of clusters of one size."""
    several = sum(count for count, _ in buckets.blocks)
    if reduction == "frobenius":
        return [1 / buckets.num_clusters for _ in buckets.blocks]
    return [1 / (size * (size - 1) * several) for _, size in buckets.blocks]


def _reduce(members: Tensor, buckets: ClusterBuckets, reduction: str, include_diagonal: bool) -> Tensor:
    copies = members.shape[0] if members.ndim == 3 else 1
    parts, diagonal = [], 0.0
    rows = members.split([count * size for count, size in buckets.blocks], dim=-2)
    for block, (count, size), scale in zip(rows, buckets.blocks, pair_scales(buckets, reduction), strict=True):
        parts.append(_SquaredGaps.apply(block.reshape(-1, size, block.shape[-1]), scale / copies))
        diagonal += count * size * scale
    total = torch.stack(parts).sum()
    return total + diagonal if include_diagonal else total


class _SquaredGaps(torch.autograd.Function):
    """Scaled sum of (c_ij + 1 / (k - 1))^2 over i != j of n clusters (n, k, d) of unit vectors.

    The Gram matrices are symmetric, so the gradient needs one product, 4 gaps @ clusters, where autograd
    takes two.
    """

    @staticmethod
    def forward(ctx: Any, clusters: Tensor, scale: float) -> Tensor:
        gaps = _gaps(clusters)
        ctx.save_for_backward(clusters, gaps)
        ctx.scale = scale
        return gaps.square().sum() * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        clusters, gaps = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: connect the gaps to the clusters
            gaps = _gaps(clusters)
        return torch.bmm(gaps * (gradient * (4 * ctx.scale)), clusters), None


def _gaps(clusters: Tensor) -> Tensor:
    """Cosines plus 1 / (k - 1) of n clusters (n, k, d), with a zero diagonal: (n, k, k)."""
    gaps = torch.bmm(clusters, clusters.mT).add_(1 / (clusters.shape[1] - 1))
    gaps.diagonal(dim1=1, dim2=2).zero_()
    return gaps
