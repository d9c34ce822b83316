"""The exact fast text path: the prefix shared by all classes runs once, only the rest runs class by class.

The text tower is causal and is read at the end token. Start token, learned context and words in front of the class
names are therefore the same for every class in every block, deep prompts included, and what remains of a class is
its name, the period and the end token: a few rows, packed without padding. What the first block projects them to does
not depend on the context and is computed once. In the last block only the end token's row is needed. Same result as
running all 77 positions, up to rounding.

Attention knows two layouts of the packed rows. On a CPU it goes through groups of classes with suffixes of one length,
the least arithmetic. On a GPU, where each operation costs the launch of a kernel whatever its size, it takes all
classes at once (:mod:`cpt_plugin.encoders._padded_attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.encoders._blocks import (
    WeightState,
    autocast_dtype,
    feed_forward,
    joint_projection,
    per_head,
    project,
)
from cpt_plugin.encoders._padded_attention import Padding, attend_padded, taken
from cpt_plugin.functional._normalize import working_dtype

Projected = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows of K class prompts lie once their common prefix is taken off.

    With ``buckets``, (classes, length) of each group of classes with suffixes of equal length, the packed rows follow
    in that order; with ``padding`` in the order of the classes.

    Attributes:
        prefix_ids: (S,) token ids of the prefix.
        slots: (P,) positions of the context vectors in the prefix.
        ids: (T,) token ids of all suffixes; positions: (T,) their positions.
        ends: (K,) row of each end token among prefix and packed rows.
        back: (K,) where each class stands in the order of the rows; None where that is the order of the classes.
    """

    prefix_ids: Tensor
    slots: Tensor
    ids: Tensor
    positions: Tensor
    ends: Tensor
    back: Tensor | None
    buckets: tuple[tuple[int, int], ...]
    padding: Padding | None
    _constants: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, ids: Tensor, eot: Tensor, slots: Tensor, padded: bool) -> Layout | None:
        """Layout of token ids (K, 77) with end positions (K,) and slots (K, P); None if a slot is class-specific."""
        same = (ids == ids[:1]).all(0).cpu()
        differing = (~same).nonzero()
        shared = min(int(differing[0]) if len(differing) else ids.shape[1], int(eot.min()))
        if slots.numel() and (int(slots.max()) >= shared or bool((slots != slots[:1]).any())):
            return None
        lengths = (eot - shared + 1).tolist()
        order = list(range(len(lengths))) if padded else sorted(range(len(lengths)), key=lambda row: lengths[row])
        ordered = [lengths[row] for row in order]
        rows = [(row, shared + i) for row in order for i in range(lengths[row])]
        row, position = torch.tensor(rows, device=ids.device).unbind(1)
        ends = torch.tensor(ordered, device=ids.device).cumsum(0) - 1 + shared
        first = ids[0, :shared], slots[0], ids[row, position], position, ends
        if padded:
            return cls(*first, None, (), Padding.of(shared, lengths, ids.device))
        back = torch.empty(len(order), dtype=torch.long, device=ids.device)
        back[torch.tensor(order, device=ids.device)] = torch.arange(len(order), device=ids.device)
        return cls(*first, back, tuple((len([*group]), length) for length, group in groupby(ordered)), None)

    @property
    def shared(self) -> int:
        """Number S of rows of the prefix."""
        return len(self.prefix_ids)

    def kept(self) -> int:
        """Numbers kept for the backward pass of one block, an estimate in widths."""
        packed = self.shared + len(self.ids)
        return 10 * packed if self.padding is None else 6 * packed + 4 * len(self.padding.rows)

    def constants(self, tower: Any) -> tuple[Tensor, Tensor]:
        """Suffix rows (1, T, w) at the input of the first block and their queries, keys and values (1, T, 3 w).

        Made once, unless a weight that makes them is trained.
        """
        block, embedding = tower.transformer.resblocks[0], tower.token_embedding
        weights = (embedding.weight, tower.positional_embedding, *block.ln_1.parameters(), *block.attn.parameters())
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return self._first_block(tower)
        key = autocast_dtype(embedding.weight.device), WeightState(weights)
        known = self._constants.get("known")
        if known is None or known[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                known = self._constants["known"] = key, self._first_block(tower)
        return known[1]

    def _first_block(self, tower: Any) -> tuple[Tensor, Tensor]:
        block = tower.transformer.resblocks[0]
        rows = tower.token_embedding(self.ids).to(tower.dtype)
        rows = (rows + tower.positional_embedding.to(rows.dtype)[self.positions])[None]
        return rows, joint_projection(block, block.ln_1(rows))

    def split(self, rows: Tensor, of_ends: bool = False) -> Iterator[Tensor]:
        """Packed rows (B, heads, T, ...) as (B, heads, classes, length, ...) by bucket; length 1 for end rows."""
        start = 0
        for classes, length in self.buckets:
            taken = 1 if of_ends else length
            yield rows[:, :, start : start + classes * taken].unflatten(2, (classes, taken))
            start += classes * taken


def encode(tower: Any, layout: Layout, context: Tensor | None, deep: tuple[Tensor, ...]) -> Tensor:
    """Un-normalized text features (B, K, d) of classes that share a context (P, w), or (B, P, w) one for each image.

    B is 1 where the context does not depend on images; deep prompts (P, w) do not.
    ``tower`` holds CLIP's frozen text modules under their own names (``transformer``, ``ln_final``, ...).
    """
    prefix = tower.token_embedding(layout.prefix_ids).to(tower.dtype)[None]
    if context is not None:
        prefix = _replace(prefix, layout.slots, context)
    prefix = prefix + tower.positional_embedding.to(prefix.dtype)[: layout.shared]
    suffix, projected = layout.constants(tower)
    rows = _behind(prefix, suffix)
    blocks = tower.transformer.resblocks
    for index, block in enumerate(blocks):
        if 1 <= index <= len(deep):
            rows = _replace(rows, layout.slots, deep[index - 1])
        is_last = index == len(blocks) - 1
        known = projected if index == 0 and not is_last else None
        normed = block.ln_1(rows if known is None else prefix)
        if layout.padding is None:
            attended = _attend_buckets(block, normed, known, layout, is_last)
        else:
            joint = joint_projection(block, normed)
            joint = joint if known is None else _behind(joint, known)
            attended = attend_padded(joint, block.attn.num_heads, layout.padding, is_last)
        rows = feed_forward(block, taken(rows, layout.ends) if is_last else rows, attended)
    rows = rows if layout.back is None else rows[:, layout.back]
    return tower.ln_final(rows).to(tower.dtype) @ tower.text_projection


def _replace(rows: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    vectors = vectors.to(rows.dtype)
    batch = max(len(rows), len(vectors) if vectors.ndim == 3 else 1)
    shape = (batch, *vectors.shape[-2:])
    return rows.expand(batch, -1, -1).index_copy(1, slots, vectors.expand(shape))


def _behind(prefix: Tensor, suffix: Tensor) -> Tensor:
    """Rows (B, S, ...) followed by (1, T, ...) for each of the B."""
    return torch.cat([prefix, suffix.expand(len(prefix), -1, -1)], dim=1)


def _attend_buckets(block: Any, normed: Tensor, known: Tensor | None, layout: Layout, is_last: bool) -> Tensor:
    """Attention of one block (B, heads, rows, w / heads) of all rows, or of the last block's end rows.

    The projections of the suffixes may be known; `normed` then holds the prefix only.
    """
    shared = layout.shared
    if is_last:
        ends, k, v = project(block, normed, normed[:, layout.ends])
        first, (_, k, v) = _parted((ends, k, v), shared)
        return _attend(first, (ends, k, v), layout, of_ends=True)
    if known is None:
        first, rest = _parted(project(block, normed), shared)
    else:
        suffixes = known.expand(len(normed), -1, -1)
        first, rest = project(block, normed), per_head(suffixes, block.attn.num_heads)
    own = F.scaled_dot_product_attention(first[0], first[1], first[2], is_causal=True)
    return torch.cat([own, _attend(first, rest, layout)], dim=2)


def _parted(projected: Projected, shared: int) -> tuple[Projected, Projected]:
    """Projections of the first `shared` rows and of the others."""
    first, rest = ([x[:, :, rows] for x in projected] for rows in (slice(shared), slice(shared, None)))
    return (first[0], first[1], first[2]), (rest[0], rest[1], rest[2])


def _attend(prefix: Projected, suffix: Projected, layout: Layout, of_ends: bool = False) -> Tensor:
    """Attention of suffix rows (B, heads, rows, w / heads) to the prefix and to their own class's earlier rows."""
    q, k, v = suffix
    q, shared = q * q.shape[-1] ** -0.5, prefix[1].shape[2]
    to_prefix = q @ prefix[1].transpose(-1, -2)
    weights, outputs = [], []
    parts = zip(
        layout.split(q, of_ends), layout.split(to_prefix, of_ends), layout.split(k), layout.split(v), strict=True
    )
    for queries, scores, keys, values in parts:
        within = queries @ keys.transpose(-1, -2)
        if not of_ends:
            length = within.shape[-1]
            within = within.masked_fill(within.new_ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
        weight = torch.cat([scores, within], dim=-1).softmax(-1, dtype=working_dtype(q)).to(q.dtype)
        weights.append(weight[..., :shared].flatten(2, 3))
        outputs.append((weight[..., shared:] @ values).flatten(2, 3))
    return torch.cat(weights, dim=2) @ prefix[2] + torch.cat(outputs, dim=2)
