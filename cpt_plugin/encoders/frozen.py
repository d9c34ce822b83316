"""A frozen CLIP model and its construction from a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.encoders._package import model_module
from cpt_plugin.errors import CheckpointError, ConfigError

CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 49408
HEAD_WIDTH = 64
_SCALARS_OF_ARCHIVES = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True, eq=False)
class FrozenCLIP:
    """CLIP with all parameters frozen, in eval mode, and the sizes that prompts need.

    Attributes:
        model: `CLIP` module of the installed package.
        name: name it was asked for, e.g. "ViT-B/16" or "micro".
        digest: SHA-256 (hex) of the weights file.
        vocabulary: token ids with trained embeddings; None means all of them.
        text_width: width of the text transformer (prompt vectors of the text side).
        vision_width: width of the vision tower (prompt vectors of the image side, ViT only).
        embed_dim: dimension d of the joint space.
        input_resolution: height and width of input images in pixels.
        text_layers: number of text transformer blocks.
        vision_layers: number of vision transformer blocks, 0 for a ResNet.
        is_vit: whether the vision tower is a ViT, i.e. can take prompts.
    """

    model: Any
    name: str
    digest: str
    vocabulary: frozenset[int] | None
    text_width: int
    vision_width: int
    embed_dim: int
    input_resolution: int
    text_layers: int
    vision_layers: int
    is_vit: bool

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen matrices, in which the towers compute."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device the weights are on."""
        return self.model.logit_scale.device

    def check_depth(self, text: int = 1, vision: int = 1) -> None:
        """Refuse prompt depths (number of blocks that get their own prompts) that the towers do not have.

        Raises:
            ConfigError: a depth below 1 or above the number of blocks; visual depth above 1 on a ResNet.
        """
        for tower, depth, layers in (
            ("text", text, self.text_layers),
            ("vision", vision, max(1, self.vision_layers)),
        ):
            if not 1 <= depth <= layers:
                raise ConfigError(
                    f"{tower} prompt depth {depth} is not within 1..{layers}, the blocks of {self.name}"
                )

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
    arguments = _architecture(weights, name)
    with torch.device("meta"):
        model = model_module().CLIP(**arguments)
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
    is_vit = "visual.proj" in weights
    return FrozenCLIP(
        model=model,
        name=name,
        digest=digest,
        vocabulary=vocabulary,
        text_width=arguments["transformer_width"],
        vision_width=arguments["vision_width"],
        embed_dim=arguments["embed_dim"],
        input_resolution=arguments["image_resolution"],
        text_layers=arguments["transformer_layers"],
        vision_layers=arguments["vision_layers"] if is_vit else 0,
        is_vit=is_vit,
    )


def plain_state(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What is CLIP's own in the state dict of a model that may hold learned prompts or adapters besides.

    Raises:
        CheckpointError: the shapes do not describe a CLIP model.
    """
    with torch.device("meta"):
        own = model_module().CLIP(**_architecture(state, name)).state_dict()
    return {key: value for key, value in state.items() if key in own}


def _architecture(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    try:
        vision = _vit_sizes(state) if "visual.proj" in state else _resnet_sizes(state)
        context, text_width = state["positional_embedding"].shape
        vocabulary, _ = state["token_embedding.weight"].shape
        embed_dim = state["text_projection"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"weights of {name} are not an OpenAI-style CLIP state dict ({type(error).__name__}: {error})"
        ) from error
    if (context, vocabulary) != (CONTEXT_LENGTH, VOCABULARY_SIZE):
        raise CheckpointError(
            f"weights of {name} have context {context} and vocabulary {vocabulary}; "
            f"CLIP's tokenizer needs {CONTEXT_LENGTH} and {VOCABULARY_SIZE}"
        )
    widths = [text_width] + ([vision["vision_width"]] if "visual.proj" in state else [])
    if any(width == 0 or width % HEAD_WIDTH for width in widths):
        raise CheckpointError(
            f"weights of {name} have transformer widths {widths}; multiples of {HEAD_WIDTH} expected"
        )
    return {
        **vision,
        "embed_dim": embed_dim,
        "context_length": context,
        "vocab_size": vocabulary,
        "transformer_width": text_width,
        "transformer_heads": text_width // HEAD_WIDTH,
        "transformer_layers": _count_blocks(state, "transformer.resblocks."),
    }


def _vit_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    positions, _ = state["visual.positional_embedding"].shape
    return {
        "image_resolution": patch * round((positions - 1) ** 0.5),
        "vision_layers": _count_blocks(state, "visual.transformer.resblocks."),
        "vision_width": width,
        "vision_patch_size": patch,
    }


def _resnet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    positions, _ = state["visual.attnpool.positional_embedding"].shape
    return {
        "image_resolution": 32 * round((positions - 1) ** 0.5),
        "vision_layers": tuple(_count_blocks(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)),
        "vision_width": state["visual.layer1.0.conv1.weight"].shape[0],
        "vision_patch_size": None,
    }


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


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
