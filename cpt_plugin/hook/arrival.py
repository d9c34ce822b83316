"""What is seen when a gradient arrives at a model's output: the weight of a loss, of a cross-entropy, its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SURE = 3
"""Rows that must agree before they tell something that a few could by chance."""


@dataclass
class CrossEntropy:
    """A mean cross-entropy as its gradient on logits shows it.

    weight: what it is multiplied by, the loss scale apart.
    alike: whether all rows have the same weight; rows: how many rows tell.
    tolerance: relative error to be expected of the weight.
    """

    weight: float
    alike: bool
    rows: int
    tolerance: float

    def is_one_over(self, steps: float) -> bool:
        """Whether the weight is 1 / steps."""
        return same(self.weight * steps, 1, self.tolerance)


@dataclass
class Arrival:
    """What is seen when a gradient arrives at the model's output.

    weight: of the returned loss itself, where nothing else of the output is used, as a tensor over the loss scale.
    in_container: whether that loss stands in a tuple, list or dictionary.
    probes: per logits, :func:`cross_entropy_probe` and the type of the logits.
    factor: what stands in front of the loss, over the loss scale; None where it was not seen.
    """

    weight: Tensor | None
    in_container: bool
    scale: Tensor
    factor: Tensor | None
    probes: list[tuple[Tensor, torch.dtype]] = field(default_factory=list)

    def numbers(self) -> Tensor:
        """All of it in one float64 vector, for one transfer to the host."""
        own = [value for value in (self.scale, self.weight, self.factor) if value is not None]
        device = self.scale.device
        return torch.cat([value.to(device).double().reshape(-1) for value in (*own, *(p for p, _ in self.probes))])


@dataclass
class Seen:
    """An :class:`Arrival` on the host."""

    weight: float | None
    in_container: bool
    factor: float | None
    cross_entropies: list[CrossEntropy]
    other_labels: bool

    @classmethod
    def of(cls, arrival: Arrival, numbers: Sequence[float]) -> Seen:
        """What the numbers of an arrival say."""
        rest = iter(numbers)
        scale = next(rest)
        weight = next(rest) if arrival.weight is not None else None
        factor = next(rest) if arrival.factor is not None else None
        found, other_labels = [], False
        for _, dtype in arrival.probes:
            value, alike, rows, other = (next(rest) for _ in range(4))
            if math.isfinite(value):
                found.append(CrossEntropy(value / scale, alike > 0, round(rows), tolerance_of(dtype)))
                other_labels |= other > 0
        return cls(weight, arrival.in_container, factor, found, other_labels)


def cross_entropy_probe(logits: Tensor, gradient: Tensor, tolerance: float, labels: Tensor | None = None) -> Tensor:
    r"""Weight of a mean cross-entropy on (B, K) logits, from the gradient that arrived on them; nothing is transferred.

    With p the softmax of a row z_i and t_i its target, the gradient of :math:`s\,\frac1B\sum_i w_i \ell(z_i, t_i)` is
    :math:`\frac{s w_i}{B}(p_i - e_{t_i})`: negative at the target only, and in this direction. The weight is
    :math:`s\,\frac1B\sum_i w_i`. With two classes every row points that way, so three alike are asked for.

    Returns:
        (4,) float64: the weight, NaN where the gradient is that of another loss; 1 where all rows have the same weight,
        else 0; the number of rows that tell; 1 where the targets of rows that tell are neither ``labels`` nor 0, 1, 2,
        ... (a contrast of pairs), else 0.
    """
    z, g = logits.detach().double(), gradient.detach().double()
    target = g.argmin(dim=1, keepdim=True)
    direction = torch.softmax(z, dim=1)
    direction.scatter_add_(1, target, -torch.ones_like(target, dtype=torch.float64))
    length, size = direction.square().sum(1), g.norm(dim=1)
    telling = length > 1e-6
    rows = telling.sum()
    row = torch.where(telling, (g * direction).sum(1) / length.clamp_min(1e-300), 0.0)
    residual = (g - row[:, None] * direction).norm(dim=1) * telling
    mean = row.sum() / rows.clamp_min(1)
    alike = (((row - mean).abs() <= 10 * tolerance * mean) | ~telling).all()
    valid = z.isfinite().all() & g.isfinite().all() & (rows > 0) & (size.amax() > 0)
    valid &= (residual <= tolerance * size.amax()).all() & (row >= 0).all()
    if logits.shape[1] == 2:
        valid &= alike & (rows >= SURE)
    total = torch.where(alike, mean * len(z), torch.where(telling.all(), row.sum(), torch.nan))
    other = torch.zeros_like(total)
    if labels is not None:
        pairs = torch.arange(len(target), device=target.device)  # targets of a contrast of pairs, as in DPC
        differing = [(target[:, 0] != known) & telling & (row > 0) for known in (labels.to(target.device), pairs)]
        other = (differing[0].any() & differing[1].any()).double()
    return torch.stack([torch.where(valid, total, torch.nan), alike.double(), rows.double(), other])


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative error to be expected of a gradient on logits of this type."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 3e-2)


def same(value: float, other: float, tolerance: float) -> bool:
    """Whether a number is another one up to a relative tolerance."""
    return math.isfinite(value) and abs(value - other) <= tolerance * abs(other)
