"""Muon in float32: momentum whose matrix updates are orthogonalized by a Newton-Schulz iteration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al., "Muon" (2024): few steps bring all singular values near 1."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of each matrix in (n, rows, columns) by values near 1.

    Iterates X <- a X + (b A + c A^2) X with A = X X^T, from X scaled to Frobenius norm 1.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).add(1e-7)[:, None, None]
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Float32Muon(torch.optim.Optimizer):
    """Muon for weight matrices, wholly in float32 (torch.optim.Muon iterates in bfloat16, slow on most CPUs).

    A stacked query-key-value matrix (3 w, w) is treated as three matrices. Updates have root mean square
    ``0.2 * lr``, which makes learning rates comparable to Adam's.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.02
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure here
        """Apply one update to every parameter that has a gradient."""
        for group in self.param_groups:
            by_size: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update = self._nesterov(weight, group["momentum"])
                pieces = 3 if weight.shape[0] == 3 * weight.shape[1] else 1
                for part, target in zip(update.chunk(pieces), weight.chunk(pieces), strict=True):
                    by_size[part.shape].append((part, target))
            for size, pairs in by_size.items():
                directions = orthogonalize(torch.stack([part for part, _ in pairs]))
                for (_, target), direction in zip(pairs, directions, strict=True):
                    target.mul_(1 - group["lr"] * group["weight_decay"])
                    target.add_(direction, alpha=-0.2 * group["lr"] * max(size) ** 0.5)

    def _nesterov(self, weight: Tensor, momentum: float) -> Tensor:
        assert weight.grad is not None
        average = self.state[weight].setdefault("average", torch.zeros_like(weight))
        average.lerp_(weight.grad, 1 - momentum)
        return torch.lerp(weight.grad, average, momentum)
