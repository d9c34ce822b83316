"""The shapes of a CLIP model, read off a state dict, and the model of the `clip` package that has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.encoders._package import model_module
from cpt_plugin.errors import CheckpointError

CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 49408
HEAD_WIDTH = 64
ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class Traits:
    """What the shapes of weights do not tell; by default as in OpenAI's models.

    Attributes:
        activation: "quick_gelu", x sigmoid(1.702 x), or "gelu", the exact one.
        text_head_width, vision_head_width: width of an attention head.
        pixel_mean, pixel_std: normalization of the images; None where it is not known.
    """

    activation: str = "quick_gelu"
    text_head_width: int = HEAD_WIDTH
    vision_head_width: int = HEAD_WIDTH
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None

    def mark(self, digest: str) -> str:
        """Hash of a model from that of its file: another one where the same weights would be run in another way."""
        ways = [(t.activation, t.text_head_width, t.vision_head_width) for t in (self, OPENAI)]
        return digest if ways[0] == ways[1] else hashlib.sha256(f"{digest} {ways[0]}".encode()).hexdigest()


OPENAI = Traits()


@dataclass(frozen=True)
class Architecture:
    """Everything that :meth:`build` needs; ``hidden`` widths are those of the MLPs, 0 in a ResNet."""

    embed_dim: int
    input_resolution: int
    vision_layers: int | tuple[int, ...]
    vision_width: int
    vision_heads: int
    vision_hidden: int
    patch_size: int | None
    text_layers: int
    text_width: int
    text_heads: int
    text_hidden: int
    activation: str

    @classmethod
    def of(cls, state: Mapping[str, Tensor], name: str, traits: Traits = OPENAI) -> Architecture:
        """Read the shapes of an OpenAI-style state dict; the tensors may be on the meta device.

        Raises:
            CheckpointError: they do not describe a CLIP model that the prompted encoders can run.
        """
        try:
            vision = _vit_sizes(state) if "visual.proj" in state else _resnet_sizes(state)
            context, text_width = state["positional_embedding"].shape
            vocabulary, _ = state["token_embedding.weight"].shape
            embed_dim = state["text_projection"].shape[1]
            text_hidden = state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"weights of {name} are not an OpenAI-style CLIP state dict ({type(error).__name__}: {error})"
            ) from error
        if (context, vocabulary) != (CONTEXT_LENGTH, VOCABULARY_SIZE):
            raise CheckpointError(
                f"weights of {name} have context {context} and vocabulary {vocabulary}; "
                f"CLIP's tokenizer needs {CONTEXT_LENGTH} and {VOCABULARY_SIZE}"
            )
        heads = {"text": (text_width, traits.text_head_width)}
        if "visual.proj" in state:
            heads["vision"] = (vision["vision_width"], traits.vision_head_width)
        for tower, (width, head) in heads.items():
            if width == 0 or width % head:
                raise CheckpointError(
                    f"weights of {name} have a {tower} transformer of width {width}; multiples of {head} expected"
                )
        return cls(
            **vision,
            vision_heads=vision["vision_width"] // traits.vision_head_width if "visual.proj" in state else 0,
            embed_dim=embed_dim,
            text_layers=_count_blocks(state, "transformer.resblocks."),
            text_width=text_width,
            text_heads=text_width // traits.text_head_width,
            text_hidden=text_hidden,
            activation=traits.activation,
        )

    @property
    def is_vit(self) -> bool:
        """Whether the vision tower is a ViT."""
        return self.patch_size is not None

    @property
    def vision_blocks(self) -> int:
        """Number of vision transformer blocks, 0 for a ResNet."""
        return self.vision_layers if isinstance(self.vision_layers, int) else 0

    def build(self) -> Any:
        """A model of the `clip` package without storage (on the meta device)."""
        with torch.device("meta"):
            model = model_module().CLIP(
                embed_dim=self.embed_dim,
                image_resolution=self.input_resolution,
                vision_layers=0 if self.is_vit else self.vision_layers,
                vision_width=self.vision_width,
                vision_patch_size=self.patch_size,
                context_length=CONTEXT_LENGTH,
                vocab_size=VOCABULARY_SIZE,
                transformer_width=self.text_width,
                transformer_heads=self.text_heads,
                transformer_layers=1,
            )
            text = self._blocks(self.text_layers, self.text_width, self.text_heads, self.text_hidden)
            model.transformer.resblocks, model.transformer.layers = text, self.text_layers
            if self.is_vit:
                vision = self._blocks(self.vision_blocks, self.vision_width, self.vision_heads, self.vision_hidden)
                model.visual.transformer.resblocks, model.visual.transformer.layers = vision, self.vision_blocks
        return model

    def _blocks(self, layers: int, width: int, heads: int, hidden: int) -> nn.Sequential:
        """The `clip` package makes heads of 64, MLPs of 4 widths and QuickGELU; here they may be others."""
        blocks = [model_module().ResidualAttentionBlock(width, heads) for _ in range(layers)]
        for block in blocks:
            if hidden != block.mlp.c_fc.out_features:
                block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
            if self.activation == "gelu":
                block.mlp.gelu = nn.GELU()
        return nn.Sequential(*blocks)


def _vit_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    positions, _ = state["visual.positional_embedding"].shape
    return {
        "input_resolution": patch * round((positions - 1) ** 0.5),
        "vision_layers": _count_blocks(state, "visual.transformer.resblocks."),
        "vision_width": width,
        "vision_hidden": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "patch_size": patch,
    }


def _resnet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    positions, _ = state["visual.attnpool.positional_embedding"].shape
    return {
        "input_resolution": 32 * round((positions - 1) ** 0.5),
        "vision_layers": tuple(_count_blocks(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)),
        "vision_width": state["visual.layer1.0.conv1.weight"].shape[0],
        "vision_hidden": 0,
        "patch_size": None,
    }


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
