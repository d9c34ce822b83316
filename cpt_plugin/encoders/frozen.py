"""A frozen CLIP model and its construction from a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.encoders._architecture import CONTEXT_LENGTH, OPENAI, VOCABULARY_SIZE, Architecture, Traits
from cpt_plugin.encoders._package import model_module
from cpt_plugin.encoders.sizes import ModelSizes
from cpt_plugin.errors import CheckpointError

__all__ = ["CONTEXT_LENGTH", "VOCABULARY_SIZE", "FrozenCLIP", "freeze_clip", "plain_state"]
_SCALARS_OF_ARCHIVES = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenCLIP(ModelSizes):
    """CLIP with all parameters frozen, in eval mode, and the sizes that prompts need.

    Attributes:
        model: `CLIP` module of the installed package.
        digest: SHA-256 (hex) of the weights file; of it and of activation and heads where these are not OpenAI's.
        vocabulary: token ids with trained embeddings; None means all of them.
        unknown_words: what becomes of words outside `vocabulary`: "refuse", or "zero" for their zero embedding.
        text_width: width of the text transformer (prompt vectors of the text side).
        vision_width: width of the vision tower (prompt vectors of the image side, ViT only).
        embed_dim: dimension d of the joint space.
    """

    model: Any
    digest: str
    vocabulary: frozenset[int] | None
    unknown_words: str = "refuse"
    text_width: int
    vision_width: int
    embed_dim: int

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen matrices, in which the towers compute."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device the weights are on."""
        return self.model.logit_scale.device

    @property
    def logit_scale(self) -> Tensor:
        """Factor (scalar, about 100 for OpenAI's weights) that turns cosines into logits."""
        return self.model.logit_scale.exp()


def freeze_clip(
    state: Mapping[str, Tensor],
    name: str,
    digest: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    vocabulary: frozenset[int] | None = None,
    traits: Traits = OPENAI,
    unknown_words: str = "refuse",
) -> FrozenCLIP:
    """Build a frozen CLIP whose architecture is read off the shapes in `state`.

    Draws no random number and rounds nothing on the way to `dtype`. With float16 only matrices are
    stored in half precision; embeddings and norms stay float32, as in CLIP's own half-precision layout.
    With float64 CLIP's LayerNorm, which always computes in float32, gives way to the plain one.

    Args:
        state: OpenAI-style CLIP state dict.
        name: name for messages and records.
        digest: SHA-256 of the file the weights came from.
        dtype: float16, float32 or float64.
        device: where the model goes.
        vocabulary: token ids with trained embeddings, None for all.
        traits: what the shapes do not tell.
        unknown_words: what becomes of words outside the vocabulary, "refuse" or "zero".

    Raises:
        CheckpointError: keys are missing or left over, or shapes do not describe a CLIP model.
    """
    spoiled = [
        key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if spoiled:
        raise CheckpointError(f"weights of {name} hold NaN or infinite values in {', '.join(spoiled[:3])}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = {
        key: value.detach().to(
            device=device, dtype=wide if value.is_floating_point() else value.dtype, copy=True
        )
        for key, value in state.items()
        if key not in _SCALARS_OF_ARCHIVES
    }
    architecture = Architecture.of(weights, name, traits)
    model = architecture.build()
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise CheckpointError(f"weights of {name} do not fit the shapes they imply: {reason}") from error
    _restore_masks(model)
    if dtype == torch.float64:
        _use_plain_layer_norms(model)
    elif dtype == torch.float16:
        _halve_matrices(model)
    model.requires_grad_(False).eval()
    return FrozenCLIP(
        model=model,
        name=name,
        digest=digest,
        vocabulary=vocabulary,
        unknown_words=unknown_words,
        text_width=architecture.text_width,
        vision_width=architecture.vision_width,
        embed_dim=architecture.embed_dim,
        input_resolution=architecture.input_resolution,
        text_layers=architecture.text_layers,
        vision_layers=architecture.vision_blocks,
        pixel_mean=traits.pixel_mean,
        pixel_std=traits.pixel_std,
    )


def plain_state(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What is CLIP's own in the state dict of a model that may hold learned prompts or adapters besides.

    Raises:
        CheckpointError: the shapes do not describe a CLIP model.
    """
    own = Architecture.of(state, name).build().state_dict()
    return {key: value for key, value in state.items() if key in own}


def _restore_masks(model: Any) -> None:
    mask = model.build_attention_mask()
    for block in model.transformer.resblocks:
        block.attn_mask = mask


def _use_plain_layer_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, model_module().LayerNorm):
            module.__class__ = nn.LayerNorm


def _halve_matrices(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            module.to(torch.float16)
    projections = [model.text_projection, getattr(model.visual, "proj", None)]
    for projection in projections:
        if projection is not None:
            projection.data = projection.data.to(torch.float16)
