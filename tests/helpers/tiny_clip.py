"""A tiny random CLIP of the real architecture for tests."""

from __future__ import annotations

import torch

from cpt_plugin.encoders._package import model_module
from cpt_plugin.encoders.frozen import CONTEXT_LENGTH, VOCABULARY_SIZE, FrozenCLIP, freeze_clip


def tiny_clip(
    text_width: int = 64,
    vision_width: int = 64,
    layers: int = 2,
    *,
    text_layers: int | None = None,
    vision_layers: int | tuple[int, int, int, int] | None = None,
    embed_dim: int = 32,
    resolution: int = 32,
    patch: int = 8,
    vocabulary: frozenset[int] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> FrozenCLIP:
    """Random frozen CLIP; the same arguments give the same weights and no global random number is drawn.

    Args:
        text_width: width of the text tower, a multiple of 64.
        vision_width: width of the ViT, a multiple of 64; of the ResNet's stem (8 is plenty) for a ResNet.
        layers: blocks in either tower unless told otherwise.
        text_layers: blocks in the text tower.
        vision_layers: blocks of the ViT; four numbers make a ResNet (resolution a multiple of 32).
        embed_dim: dimension of the joint space.
        resolution: image height and width in pixels.
        patch: patch size of the ViT in pixels.
        vocabulary: token ids said to be trained, None for all.
        seed: seed of the weights.
        dtype: type of the frozen weights.
    """
    state = random_state(
        text_width=text_width,
        vision_width=vision_width,
        text_layers=text_layers or layers,
        vision_layers=vision_layers or layers,
        embed_dim=embed_dim,
        resolution=resolution,
        patch=patch,
        seed=seed,
    )
    return freeze_clip(state, name="tiny", digest=f"tiny-{seed}", dtype=dtype, vocabulary=vocabulary)


def random_state(
    *,
    text_width: int,
    vision_width: int,
    text_layers: int,
    vision_layers: int | tuple[int, int, int, int],
    embed_dim: int,
    resolution: int,
    patch: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """State dict of a random CLIP in which no bias is 0 and no norm is the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_module().CLIP(
            embed_dim=embed_dim,
            image_resolution=resolution,
            vision_layers=vision_layers,
            vision_width=vision_width,
            vision_patch_size=patch,
            context_length=CONTEXT_LENGTH,
            vocab_size=VOCABULARY_SIZE,
            transformer_width=text_width,
            transformer_heads=text_width // 64,
            transformer_layers=text_layers,
        )
        state = model.state_dict()
        for key, value in state.items():
            if value.ndim == 1 and value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape))
            if key.endswith("bn3.weight"):
                value.add_(1.0)
    return state
