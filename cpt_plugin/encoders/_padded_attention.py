"""Causal attention of many short suffixes behind one prefix as a single operation, for devices that pay by the launch.

Of each class a whole sequence is made: the prefix, its suffix, and padding up to the longest one. The padding comes
behind the end token, so that causal attention keeps it from everything that is read; its own output is dropped.
Everything but the attention itself runs on the packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.encoders._blocks import heads, per_head

MOST_SEQUENCES = 65_535
"""Largest batch of a CUDA attention kernel: the extent of a grid of blocks in its second and third dimension."""


@dataclass(frozen=True, eq=False)
class Padding:
    """K sequences of S + L rows made of S rows of a prefix and T packed rows of suffixes, L the longest suffix.

    Attributes:
        rows: (K (S + L),) row of each place of the sequences; padding repeats the class's end row.
        places: (S + T,) place of each row; of the prefix, that in the first sequence.
        ends: (K,) place of each end token.
        classes: K.
        shared: S.
    """

    rows: Tensor
    places: Tensor
    ends: Tensor
    classes: int
    shared: int

    @classmethod
    def of(cls, shared: int, lengths: list[int], device: torch.device) -> Padding:
        """Suffixes of these lengths, in order, behind a prefix of `shared` rows."""
        longest, start = max(lengths), shared
        rows: list[int] = []
        places = list(range(shared))
        for length in lengths:
            places += range(len(rows) + shared, len(rows) + shared + length)
            rows += [*range(shared), *range(start, start + length), *[start + length - 1] * (longest - length)]
            start += length
        ends = [k * (shared + longest) + shared + length - 1 for k, length in enumerate(lengths)]
        at_rows, at_places, at_ends = (torch.tensor(indices, device=device) for indices in (rows, places, ends))
        return cls(at_rows, at_places, at_ends, len(lengths), shared)


def attend_padded(joint: Tensor, number: int, padding: Padding, of_ends: bool = False) -> Tensor:
    """Attention (B, number, rows, w / number) of queries, keys and values (B, S + T, 3 w): of all rows, or end rows."""
    sequences = _Repeated.apply(joint, padding)
    q, k, v = per_head(sequences.view(len(joint) * padding.classes, -1, joint.shape[-1]), number)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    attended = attended.reshape(len(joint), len(padding.rows), -1)
    return heads(taken(attended, padding.ends if of_ends else padding.places), number)


def taken(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, n, w) of (B, N, w); no row is taken twice."""
    return _Taken.apply(rows, index)


class _Taken(torch.autograd.Function):
    """Selection of different rows; its adjoint copies where autograd's own adds, in no order, on a GPU."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.shape = index, rows.shape
        return rows.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.new_zeros(ctx.shape).index_copy(1, ctx.index, gradient), None


class _Repeated(torch.autograd.Function):
    """Sequences (B, K (S + L), c) of rows (B, S + T, c).

    The gradient leaves out the places of the padding, which causal attention and :func:`taken` make 0.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, padding: Padding) -> Tensor:
        ctx.padding = padding
        return rows.index_select(1, padding.rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        padding: Padding = ctx.padding
        prefixes = gradient.unflatten(1, (padding.classes, -1))[:, :, : padding.shared].sum(1)
        suffixes = gradient.index_select(1, padding.places[padding.shared :])
        return torch.cat([prefixes, suffixes], dim=1), None
