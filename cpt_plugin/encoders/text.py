"""CLIP's text tower with learned prompts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cpt_plugin.encoders._blocks import (
    FrozenEncoder,
    WeightState,
    autocast_dtype,
    causal_mask,
    insert,
    residual_block,
)
from cpt_plugin.encoders._padded_attention import MOST_SEQUENCES
from cpt_plugin.encoders._shared_prefix import Layout
from cpt_plugin.encoders._shared_prefix import encode as encode_shared
from cpt_plugin.encoders.frozen import FrozenCLIP
from cpt_plugin.encoders.tokens import ClassTokens
from cpt_plugin.errors import ConfigError, FeatureError

LOG = logging.getLogger("cpt_plugin")
PATHS = ("auto", "truncated", "reference")
MEMORY_GIB = 3.0
_KEPT_WIDTHS = 16
"""Numbers kept for the backward pass by one row in one block, in widths, where rows are not packed."""


@dataclass(frozen=True, eq=False)
class TextPrompts:
    """Class prompts together with the learned vectors that go into their slots.

    Attributes:
        tokens: the K tokenized classes with P slots each.
        context: vectors put into the slots before the first block: (P, w) shared by all classes,
            (K, P, w) per class, or (B, 1 or K, P, w) per image (CoCoOp); None when P = 0.
        deep: (P, w) each; the i-th (from 0) replaces the slots at the input of block i + 2 (counting
            from 1), without positional embedding (MaPLe, CVPR 2023, section 3.2).

    Raises:
        ConfigError: more deep prompts than blocks, or deep prompts or a context without slots.
        FeatureError: a prompt whose shape does not fit the tokens.
    """

    tokens: ClassTokens
    context: Tensor | None = None
    deep: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        slots, width, classes = self.tokens.n_ctx, self.tokens.width, len(self.tokens)
        if (self.context is None) != (slots == 0) or (self.deep and slots == 0):
            raise ConfigError(
                f"the class prompts have {slots} context slots; "
                f"a context is {'missing' if self.context is None else 'given'}, "
                f"{len(self.deep)} deep prompts are given"
            )
        if len(self.deep) >= self.tokens.layers:
            raise ConfigError(
                f"prompt depth {len(self.deep) + 1} exceeds the {self.tokens.layers} blocks of the text tower"
            )
        if self.context is not None and not _fits(self.context, (slots, width), classes):
            raise FeatureError(
                f"context has shape {tuple(self.context.shape)}; expected ({slots}, {width}), "
                f"({classes}, {slots}, {width}) or (images, 1 or {classes}, {slots}, {width})"
            )
        for layer, prompt in enumerate(self.deep, start=2):
            if prompt.shape != (slots, width):
                raise FeatureError(
                    f"deep text prompt of layer {layer} has shape {tuple(prompt.shape)}; "
                    f"expected ({slots}, {width})"
                )

    @property
    def images(self) -> int | None:
        """Number B of images the context is conditioned on, None if it does not depend on images."""
        return self.context.shape[0] if self.context is not None and self.context.ndim == 4 else None

    @property
    def is_shared(self) -> bool:
        """Whether all classes have the same context, of each image or of all."""
        return self.context is None or self.context.ndim == 2 or (self.context.ndim == 4 and self.context.shape[1] == 1)

    def select(self, classes: Tensor | slice) -> TextPrompts:
        """The prompts of some classes: their indices, in the wanted order, or a slice."""
        context = self.context
        if context is not None and context.ndim == 3:
            context = context[classes]
        elif context is not None and context.ndim == 4 and context.shape[1] > 1:
            context = context[:, classes]
        return TextPrompts(self.tokens.select(classes), context, self.deep)

    def equals(self, other: TextPrompts) -> bool:
        """Whether all vectors have the same values for the same classes."""
        mine, theirs = [self.context, *self.deep], [other.context, *other.deep]
        return self.tokens is other.tokens and len(mine) == len(theirs) and all(map(_same, mine, theirs))

    def copy(self) -> TextPrompts:
        """The same prompts with vectors of their own, detached."""
        context = None if self.context is None else self.context.detach().clone()
        return TextPrompts(self.tokens, context, tuple(prompt.detach().clone() for prompt in self.deep))


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


class TextEncoder(FrozenEncoder):
    """Text features of prompted or plain texts through CLIP's own frozen modules.

    Path "reference" runs all 77 positions. The text tower is causal and read at the end token, so what follows the
    last end token cannot matter: path "truncated" leaves it out. Path "auto" moreover runs what all classes have in
    common once, or once an image (:mod:`cpt_plugin.encoders._shared_prefix`), where they share one context in front
    of their names, and is "truncated" elsewhere: class-specific contexts, names in front or middle.

    What would keep more than `memory_gib` GiB for the backward pass (estimated from rows, width and blocks) is encoded
    in chunks of classes, each run again when its gradient arrives: the same features and gradients, in less memory.

    `padded` says how attention of path "auto" meets suffixes of several lengths: by groups of one length (False), all
    at once, padded to the longest (True), or as suits the device of the weights (None: True on a GPU).

    Raises:
        ConfigError: unknown path, or a budget that is not above 0.
    """

    def __init__(
        self, clip: FrozenCLIP, path: str = "auto", memory_gib: float = MEMORY_GIB, padded: bool | None = None
    ) -> None:
        super().__init__()
        if not memory_gib > 0:
            raise ConfigError(f"the text encoder's memory budget is {memory_gib} GiB; give a number above 0")
        if path not in PATHS:
            raise ConfigError(f"text path {path!r} is unknown; choose one of {', '.join(PATHS)}")
        self.path = path
        self.memory_gib = memory_gib
        self.padded = padded
        self._chunked: tuple[int, int] | None = None
        self._last: tuple[TextPrompts, tuple[Any, ...], Tensor] | None = None
        self.dtype = clip.dtype
        self.token_embedding = clip.model.token_embedding
        self.positional_embedding = clip.model.positional_embedding
        self.transformer = clip.model.transformer
        self.ln_final = clip.model.ln_final
        self.text_projection = clip.model.text_projection
        self.eval()

    def forward(self, prompts: TextPrompts) -> Tensor:
        """Un-normalized text features (K, d), or (B, K, d) for a context per image.

        Without gradients (evaluation) features of the same prompts are computed once: prompts whose values equal
        those of the call before get the features of the call before.
        """
        if torch.is_grad_enabled() or prompts.images is not None:
            return self._encode(prompts)
        autocast, inference = autocast_dtype(self.text_projection.device), torch.is_inference_mode_enabled()
        setting = self.path, autocast, inference, WeightState(self.parameters())
        if self._last is None or self._last[1] != setting or not self._last[0].equals(prompts):
            self._last = prompts.copy(), setting, self._encode(prompts)
        return self._last[2].clone()

    def _encode(self, prompts: TextPrompts) -> Tensor:
        classes, layout, images = len(prompts.tokens), self._layout(prompts), prompts.images or 1
        kept = layout.kept() if layout else _KEPT_WIDTHS * classes * self._length(prompts.tokens)
        size = self._at_once(classes, kept * images)
        if self._pads():
            size = min(size, max(1, MOST_SEQUENCES // images))
        if size >= classes:
            return self._encode_at_once(prompts)
        if self._chunked != (classes, size):
            self._chunked = classes, size
            LOG.info(f"Text encoder: {classes} classes, {size} at a time, to keep within {self.memory_gib:g} GiB")

        def encoded(start: int) -> Tensor:
            return self._encode_at_once(prompts.select(slice(start, start + size)))

        starts = range(0, classes, size)
        if not torch.is_grad_enabled():
            return torch.cat([encoded(start) for start in starts], dim=-2)
        again = {"use_reentrant": False, "preserve_rng_state": False}
        return torch.cat([checkpoint(encoded, start, **again) for start in starts], dim=-2)  # type: ignore[arg-type]

    def _at_once(self, classes: int, widths: int) -> int:
        """How many classes fit in the budget that keep so many numbers a block in all, counted in widths."""
        blocks = len(self.transformer.resblocks) if torch.is_grad_enabled() else 1
        kept = widths * blocks * self.positional_embedding.shape[1] * self.dtype.itemsize
        return max(1, int(classes * self.memory_gib * 2**30 / kept))

    def _layout(self, prompts: TextPrompts) -> Layout | None:
        return prompts.tokens.layout(self._pads()) if self.path == "auto" and prompts.is_shared else None

    def _pads(self) -> bool:
        return self.text_projection.device.type == "cuda" if self.padded is None else self.padded

    def _length(self, tokens: ClassTokens) -> int:
        return tokens.ids.shape[1] if self.path == "reference" else tokens.length

    def _encode_at_once(self, prompts: TextPrompts) -> Tensor:
        tokens, images = prompts.tokens, prompts.images or 1
        if layout := self._layout(prompts):
            context = prompts.context if prompts.images is None else prompts.context[:, 0]  # type: ignore[index]
            features = encode_shared(self, layout, context, prompts.deep)
            return features[0] if prompts.images is None else features
        x = self._embed(tokens.ids, self._length(tokens)).repeat(1, images, 1)
        slots = tokens.slots.T.repeat(1, images)
        if prompts.context is not None:
            x = insert(x, slots, _per_sequence(prompts.context, len(tokens)))
        features = self._transform(x, tokens.eot.repeat(images), slots, prompts.deep)
        return features if prompts.images is None else features.unflatten(0, (images, len(tokens)))

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Un-normalized features (n, d) of plain token ids (n, 77) through the same path, without gradient."""
        length = ids.shape[1] if self.path == "reference" else int(ids.argmax(dim=1).max()) + 1
        with torch.no_grad():
            size = self._at_once(len(ids), len(ids) * length * _KEPT_WIDTHS)
            return torch.cat([self._encode_ids(part, length) for part in ids.split(size)])

    def _encode_ids(self, ids: Tensor, length: int) -> Tensor:
        eot, slots = ids.argmax(dim=1), ids.new_empty(len(ids), 0)
        if self.path == "auto" and (layout := Layout.of(ids, eot, slots, self._pads())):
            return encode_shared(self, layout, None, ())[0]
        return self._transform(self._embed(ids, length), eot, slots.T, ())

    def _embed(self, ids: Tensor, length: int) -> Tensor:
        return self.token_embedding(ids[:, :length].T).to(self.dtype)

    def _transform(self, x: Tensor, eot: Tensor, slots: Tensor, deep: tuple[Tensor, ...]) -> Tensor:
        length, sequences = x.shape[:2]
        x = x + self.positional_embedding[:length, None].to(x.dtype)
        mask = causal_mask(length, like=x)
        for index, block in enumerate(self.transformer.resblocks):
            if 1 <= index <= len(deep):
                x = insert(x, slots, deep[index - 1].unsqueeze(1))
            x = residual_block(block, x, mask)
        x = x[eot, torch.arange(sequences, device=x.device)]
        return self.ln_final(x).to(self.dtype) @ self.text_projection


def _fits(context: Tensor, slot_shape: tuple[int, int], classes: int) -> bool:
    leading = context.shape[:-2]
    if context.ndim < 2 or context.shape[-2:] != slot_shape:
        return False
    return len(leading) == 0 or leading == (classes,) or (len(leading) == 2 and leading[1] in (1, classes))


def _per_sequence(context: Tensor, classes: int) -> Tensor:
    """Context as (P, N or 1, w), image-major over the sequences."""
    if context.ndim == 2:
        return context.unsqueeze(1)
    if context.ndim == 4:
        context = context.expand(-1, classes, -1, -1).flatten(0, 1)
    return context.transpose(0, 1)
