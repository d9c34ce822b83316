"""The text tower's two layouts of attention on the GPU, and what it chooses there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cpt_plugin.encoders import ClassTokens, TextEncoder, TextPrompts
from cpt_plugin.encoders.frozen import freeze_clip
from tests.gpu.steps import cosine
from tests.helpers.tiny_clip import random_state

NAMES = ("cat", "golden retriever", "a", "dog", "boeing 737-800", "tabby cat on a mat")
SIZES = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 1, "embed_dim": 32}


def prompted(
    encoder: TextEncoder, tokens: ClassTokens, images: int | None, autocast: torch.dtype | None = None
) -> list[Tensor]:
    """Features, and gradients of context and deep prompt, on the CPU."""
    generator, device = torch.Generator().manual_seed(0), tokens.ids.device
    shape = (4, 128) if images is None else (images, 1, 4, 128)
    learned = [torch.randn(*one, generator=generator).to(device).requires_grad_() for one in (shape, (4, 128))]
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        features = encoder(TextPrompts(tokens, learned[0], (learned[1],)))
    cotangent = torch.randn(features.shape, generator=generator).to(device, features.dtype)
    return [x.detach().cpu().double() for x in (features, *torch.autograd.grad(features, learned, cotangent))]


@pytest.mark.parametrize("images", [None, 3])
def test_both_layouts_are_exact_on_the_gpu(device: torch.device, images: int | None) -> None:
    state = random_state(**SIZES, resolution=32, patch=8, seed=0)
    clip = freeze_clip(state, "tiny", "tiny", torch.float32, device)
    tokens = ClassTokens.build(clip, NAMES, 4)
    expected = prompted(TextEncoder(clip, "reference"), tokens, images)
    for padded in (True, False):
        for own, exact in zip(prompted(TextEncoder(clip, padded=padded), tokens, images), expected, strict=True):
            assert (own - exact).norm() < 1e-5 * exact.norm()
    for autocast in (torch.float16, torch.bfloat16):
        found = prompted(TextEncoder(clip, padded=True), tokens, images, autocast)
        for own, exact in zip(found, expected, strict=True):
            assert cosine(own.flatten(), exact.flatten()) > 0.99
    assert TextEncoder(clip)._pads() == (device.type == "cuda")
