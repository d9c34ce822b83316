"""IVLP's prompts: how many, how they start, that the encoders are independent, and the depths it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, TextEncoder, tokenize
from cpt_plugin.errors import ConfigError
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import losses_of_overfitting
from trainers.ivlp import IndependentPrompts

NAMES = ["red square", "dog", "very long name"]


def prompts(
    clip: FrozenCLIP, text: int = 2, vision: int = 2, ctx_init: str = "a photo of a", depths: tuple[int, int] = (3, 3)
) -> IndependentPrompts:
    torch.manual_seed(0)
    return IndependentPrompts(clip, NAMES, text, vision, ctx_init, *depths)


def count(learner: nn.Module) -> int:
    return sum(p.numel() for p in learner.parameters())


@pytest.mark.parametrize(("text", "vision", "depths"), [(2, 3, (3, 2)), (4, 1, (1, 3)), (1, 2, (2, 0)), (2, 4, (1, 1))])
def test_number_of_parameters(clip: FrozenCLIP, text: int, vision: int, depths: tuple[int, int]) -> None:
    learner = prompts(clip, text, vision, depths=depths)
    assert count(learner) == depths[0] * text * 64 + depths[1] * vision * 128


def test_vit_b16_in_the_released_setting() -> None:
    """2 + 2 tokens in 12 + 12 layers, widths 512 and 768; built on the meta device, so nothing is allocated."""
    with torch.device("meta"):
        model = SimpleNamespace(token_embedding=nn.Embedding(49408, 512), logit_scale=torch.zeros(()))
        clip = FrozenCLIP(
            model=model, name="ViT-B/16", digest="", vocabulary=None, text_width=512, vision_width=768, embed_dim=512,
            input_resolution=224, text_layers=12, vision_layers=12,
        )  # fmt: skip
        learner = prompts(clip, depths=(12, 12))
    assert count(learner) == 12 * 2 * (512 + 768)


def test_text_starts_with_the_first_words_and_the_rest_is_small_noise() -> None:
    clip = tiny_clip(64, 128, 3)
    learner = prompts(clip)
    sentences = tokenize([f"a photo of a {name}." for name in NAMES], clip)
    assert torch.equal(learner.ctx, clip.model.token_embedding(sentences[0, 1:3]))
    assert torch.equal(learner.tokens.ids, sentences)
    drawn = [*learner.deep_text, learner.visual_ctx, *learner.deep_visual]
    assert len(drawn) == 2 + 1 + 2
    assert torch.cat([p.flatten() for p in drawn]).std().item() == pytest.approx(0.02, rel=0.1)
    assert len({p.flatten()[0].item() for p in drawn}) == len(drawn), "independent draws"
    assert prompts(clip, text=5).ctx.std().item() == pytest.approx(0.02, rel=0.2)


def test_at_text_depth_1_the_text_starts_at_the_zero_shot_features() -> None:
    clip = tiny_clip(64, 128, 3, dtype=torch.float64)
    text = prompts(clip, depths=(1, 3)).text_prompts()
    expected = TextEncoder(clip).encode_ids(tokenize([f"a photo of a {name}." for name in NAMES], clip))
    assert (TextEncoder(clip)(text) - expected).abs().max() < 1e-12


def test_neither_encoder_knows_of_the_other_one(clip: FrozenCLIP) -> None:
    learner = prompts(clip)
    TextEncoder(clip)(learner.text_prompts()).square().sum().backward()
    text, vision = [learner.ctx, *learner.deep_text], [learner.visual_ctx, *learner.deep_visual]
    assert all(p.grad.abs().sum() > 0 for p in text)
    assert all(p.grad is None for p in vision)
    learner.zero_grad()
    ImageEncoder(clip)(torch.ones(1, 3, 32, 32), learner.image_prompts()).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in vision)
    assert all(p.grad is None for p in text)


def test_visual_depth_0_has_no_visual_prompts(clip: FrozenCLIP) -> None:
    assert prompts(clip, depths=(2, 0)).image_prompts() is None
    assert prompts(clip, depths=(2, 1)).image_prompts().deep == ()


@pytest.mark.parametrize("depths", [(0, 2), (4, 2), (2, 4), (2, -1)])
def test_depths_out_of_range_are_refused_with_the_range(clip: FrozenCLIP, depths: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"prompt depth -?\d is not within 1\.\.3"):
        prompts(clip, depths=depths)


def test_loss_falls_on_a_problem_to_overfit(clip: FrozenCLIP) -> None:
    first, last = losses_of_overfitting(clip, prompts(clip), len(NAMES))
    assert last < 0.5 * first
