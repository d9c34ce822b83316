"""Local simplex-ETF separation of text prototypes: the L_TETF term of CPT."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional._checks import Labels, check_text, integers, shape_of
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype
from cpt_plugin.functional._padded_clusters import PaddedClusters

REDUCTIONS = ("frobenius", "pair_mean")
_Group = tuple[PaddedClusters, Tensor]


@dataclass(frozen=True, eq=False)
class ClusterBuckets:
    """The clusters of an assignment, arranged so that clusters of one size can be computed together.

    Building it waits for the device that holds the assignment, its first use on a GPU for that GPU; using it again
    does not. A training loop builds it once and hands it to :func:`etf_separation` in place of the assignment.

    Attributes:
        order: (n,) class indices of all clusters of two or more classes, cluster after cluster, small ones
            first.
        blocks: (number of clusters, size) for each size, in the order of `order`.
        num_clusters: number of distinct clusters, singletons included.
        num_classes: K.
        padded: whether :func:`etf_separation` pads clusters to one size, to compute them together: fewer
            operations, more arithmetic. None: on a GPU.
    """

    order: Tensor
    blocks: tuple[tuple[int, int], ...]
    num_clusters: int
    num_classes: int
    padded: bool | None = None
    _groups: dict[tuple[torch.dtype, str], list[_Group]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_assignment(cls, assignment: Labels, padded: bool | None = None) -> ClusterBuckets:
        """Sort the classes by size of their cluster, then cluster, then class.

        Raises:
            FeatureError: the assignment is not a non-empty (K,) row of integers >= 0.
        """
        given = integers(assignment, "assignment")
        if given.ndim != 1 or len(given) == 0:
            raise FeatureError(f"assignment must be (K,), a cluster id of each class, got {shape_of(given)}")
        ids = given.cpu()
        if int(ids.min()) < 0:
            raise FeatureError(f"assignment holds cluster id {int(ids.min())}; give every class one >= 0")
        clusters, inverse, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
        rank = sizes[inverse] * len(clusters) + inverse
        order = torch.argsort(rank, stable=True)[int((sizes == 1).sum()) :]
        size_values, size_counts = torch.unique(sizes[sizes > 1], return_counts=True)
        blocks = tuple(zip(size_counts.tolist(), size_values.tolist(), strict=True))
        return cls(order.to(given.device), blocks, len(clusters), len(ids), padded)

    def to(self, device: torch.device) -> ClusterBuckets:
        """Return the same buckets with their indices on `device`."""
        if self.order.device == device:
            return self
        return replace(self, order=self.order.to(device))

    @property
    def pads(self) -> bool:
        """Whether clusters are padded where the classes are."""
        return self.order.device.type == "cuda" if self.padded is None else self.padded

    def groups(self, dtype: torch.dtype, reduction: str) -> list[_Group]:
        """Padded clusters and the factors (n, 1, 1) of their pairs, made once."""
        key = dtype, reduction
        if key not in self._groups:
            made = PaddedClusters.groups(self.order, self.blocks, dtype)
            scales = {size: s for (_, size), s in zip(self.blocks, pair_scales(self, reduction), strict=True)}
            self._groups[key] = [(group, group.scales(scales)) for group in made]
        return self._groups[key]


def etf_separation(
    text: Tensor,
    assignment: Labels | ClusterBuckets,
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
        assignment: (K,) cluster id of every class, of any integer type; M is the number of distinct ids. Pass
            the :class:`ClusterBuckets` of the assignment to spare sorting it at every call.
        reduction: "frobenius" (range 0 .. sum_m k_m^3 / (k_m - 1) / M) or "pair_mean" (range 0 .. 4).
        include_diagonal: add the constant diagonal.

    Returns:
        Scalar in float32, or float64 for float64 text. Memory is O(K d + sum_m k_m^2), on a GPU too: padding of
        clusters of unlike size is bounded.

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
        dtype = working_dtype(text)
        if not buckets.blocks:
            return unit(text.index_select(-2, buckets.order), dtype).sum()
        if buckets.pads:
            terms = _padded(unit(text, dtype), buckets, reduction)
        else:
            terms = _by_size(unit(text.index_select(-2, buckets.order), dtype), buckets, reduction)
        total = terms[0] if len(terms) == 1 else torch.stack(terms).sum()
        return total + _diagonal(buckets, reduction) if include_diagonal else total


def checked_buckets(text: Tensor, assignment: Labels | ClusterBuckets, reduction: str) -> ClusterBuckets:
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


def _diagonal(buckets: ClusterBuckets, reduction: str) -> float:
    scales = pair_scales(buckets, reduction)
    return sum(count * size * scale for (count, size), scale in zip(buckets.blocks, scales, strict=True))


def _by_size(members: Tensor, buckets: ClusterBuckets, reduction: str) -> list[Tensor]:
    """The term of the clusters of each size; members (n, d) or (B, n, d) in the order of the buckets."""
    copies = members.shape[0] if members.ndim == 3 else 1
    rows = members.split([count * size for count, size in buckets.blocks], dim=-2)
    parts = zip(rows, buckets.blocks, pair_scales(buckets, reduction), strict=True)
    return [
        _SquaredGaps.apply(block.reshape(-1, size, block.shape[-1]), 1 / (size - 1), None, scale / copies)
        for block, (_, size), scale in parts
    ]


def _padded(units: Tensor, buckets: ClusterBuckets, reduction: str) -> list[Tensor]:
    """The term of each group of padded clusters; units (K, d) or (B, K, d) in the order of the classes."""
    copies = units.shape[0] if units.ndim == 3 else 1
    terms = []
    for group, scales in buckets.groups(units.dtype, reduction):
        clusters = units.index_select(-2, group.members).reshape(-1, group.size, units.shape[-1])
        of_clusters = group.targets, group.mask, scales
        if copies > 1:
            targets, mask, scales = (x.repeat(copies, 1, 1) for x in of_clusters)
            of_clusters = targets, mask, scales / copies
        terms.append(_SquaredGaps.apply(clusters, *of_clusters))
    return terms


class _SquaredGaps(torch.autograd.Function):
    """Scaled sum of (c_ij + t)^2 over pairs i != j of n clusters (n, k, d) of unit vectors.

    The target t = 1 / (k_m - 1) and the scale are numbers, or (n, 1, 1) of each cluster where a mask (n, k, k) says
    which pairs count; it is symmetric. So are the Gram matrices, and the gradient needs one product,
    4 gaps @ clusters, where autograd takes two.
    """

    @staticmethod
    def forward(
        ctx: Any, clusters: Tensor, target: float | Tensor, mask: Tensor | None, scale: float | Tensor
    ) -> Tensor:
        gaps = _gaps(clusters, target, mask)
        ctx.save_for_backward(clusters, gaps)
        ctx.constants = target, mask, scale
        ctx.set_materialize_grads(False)
        if isinstance(scale, Tensor):
            return (gaps.square() * scale).sum()
        return gaps.square().sum() * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if gradient is None:
            return None, None, None, None
        clusters, gaps = ctx.saved_tensors
        target, mask, scale = ctx.constants
        if torch.is_grad_enabled():  # a second derivative is wanted: connect the gaps to the clusters
            gaps = _gaps(clusters, target, mask)
        return torch.bmm(gaps * (gradient * (4 * scale)), clusters), None, None, None


def _gaps(clusters: Tensor, target: float | Tensor, mask: Tensor | None) -> Tensor:
    """Cosines plus targets of n clusters (n, k, d), 0 where masked or, without a mask, on the diagonal: (n, k, k)."""
    gaps = torch.bmm(clusters, clusters.mT).add_(target)
    if mask is not None:
        return gaps.mul_(mask)
    gaps.diagonal(dim1=1, dim2=2).zero_()
    return gaps
