"""Steps that both prompted towers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_QUICK_GELU = 1.702


class FrozenEncoder(nn.Module):
    """Module of frozen parameters that stays in eval mode whatever its owner is switched to."""

    def train(self, mode: bool = True) -> Self:
        """Ignore `mode`: a frozen tower has no training behavior."""
        return super().train(False)


class WeightState:
    """Some weights as they are now; equal to a later state of them only while they are the same tensors, unchanged.

    The tensors are kept, so that none that comes later is taken for one of them. A change that goes past autograd's
    version counter (in place, through ``.data``) is not seen.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = tuple(weights)
        self._marks = [(w._version, w.data_ptr(), w.dtype, w.device) for w in self._weights]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, WeightState)
            and self._marks == other._marks
            and all(one is two for one, two in zip(self._weights, other._weights, strict=True))
        )


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


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Type in which autocast, if it is on, computes on a device."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def heads(rows: Tensor, number: int) -> Tensor:
    """(B, rows, w) -> (B, number, rows, w / number)."""
    return rows.unflatten(2, (number, -1)).transpose(1, 2)


def joint_projection(block: Any, normed: Tensor) -> Tensor:
    """Query, key and value rows (B, rows, 3 w) of one block, side by side."""
    return F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)


def per_head(joint: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, rows, 3 w) -> three times (B, number, rows, w / number)."""
    q, k, v = (heads(x, number) for x in joint.chunk(3, dim=-1))
    return q, k, v


def project(block: Any, normed: Tensor, queries: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value rows (B, heads, rows, w / heads) of one block; the queries of other rows if given."""
    number, weight, bias = block.attn.num_heads, block.attn.in_proj_weight, block.attn.in_proj_bias
    if queries is None:
        return per_head(joint_projection(block, normed), number)
    width = normed.shape[-1]
    k, v = (heads(x, number) for x in F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1))
    return heads(F.linear(queries, weight[:width], bias[:width]), number), k, v


def feed_forward(block: Any, rows: Tensor, attended: Tensor) -> Tensor:
    """Second half of a block, attention output (B, heads, rows, w / heads) and MLP added to `rows` (B, rows, w)."""
    rows = rows + block.attn.out_proj(attended.transpose(1, 2).flatten(2))
    hidden = block.mlp.c_fc(block.ln_2(rows))
    if type(block.mlp.gelu).__name__ == "QuickGELU":
        # x sigmoid(1.702 x), written so that one tensor is kept for the backward pass instead of two
        hidden = F.silu(_QUICK_GELU * hidden) / _QUICK_GELU
    else:
        hidden = block.mlp.gelu(hidden)
    return rows + block.mlp.c_proj(hidden)
