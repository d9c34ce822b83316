"""Steps that both prompted towers share."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn


class FrozenEncoder(nn.Module):
    """Module of frozen parameters that stays in eval mode whatever its owner is switched to."""

    def train(self, mode: bool = True) -> Self:
        """Ignore `mode`: a frozen tower has no training behavior."""
        return super().train(False)


def residual_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One CLIP residual attention block on `x` (L, N, w) with an additive attention mask (L, L)."""
    normed = block.ln_1(x)
    x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
    return x + block.mlp(block.ln_2(x))


def causal_mask(length: int, like: Tensor) -> Tensor:
    """Additive mask (L, L): 0 where query row i may see key column j <= i, -inf elsewhere."""
    return like.new_full((length, length), float("-inf")).triu(1)


def insert(x: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Copy of `x` (L, N, w) whose rows `slots` (P, N) of each sequence are `vectors` (P, N or 1, w)."""
    index = slots.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return torch.scatter(x, 0, index, vectors.to(x.dtype).expand_as(index))
