"""MaPLe's prompts: how many, how they start, how the two encoders are coupled, and the depths it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, TextEncoder, tokenize
from cpt_plugin.errors import ConfigError
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import losses_of_overfitting
from trainers.maple import MultiModalPrompts

NAMES = ["red square", "dog", "very long name"]


def prompts(clip, n_ctx=2, ctx_init="a photo of a", depth=3, names=NAMES):
    torch.manual_seed(0)
    return MultiModalPrompts(clip, names, n_ctx, ctx_init, depth)


def count(learner):
    return sum(p.numel() for p in learner.parameters())


def formula(n_ctx, text, vision, depth):
    """J text prompts of P vectors, and J linear maps with bias from text to vision width."""
    return depth * (n_ctx * text + text * vision + vision)


@pytest.mark.parametrize(("n_ctx", "depth"), [(1, 1), (2, 1), (2, 3), (4, 2)])
def test_number_of_parameters(clip, n_ctx, depth):
    assert count(prompts(clip, n_ctx=n_ctx, depth=depth)) == formula(n_ctx, 64, 128, depth)


def test_vit_b16_has_the_published_number_of_parameters():
    """3.55 million: 2 tokens, depth 9, widths 512 and 768; built on the meta device, so nothing is allocated."""
    with torch.device("meta"):
        model = SimpleNamespace(token_embedding=nn.Embedding(49408, 512), logit_scale=torch.zeros(()))
        clip = FrozenCLIP(
            model=model, name="ViT-B/16", digest="", vocabulary=None, text_width=512, vision_width=768, embed_dim=512,
            input_resolution=224, text_layers=12, vision_layers=12,
        )  # fmt: skip
        learner = prompts(clip, depth=9)
    assert count(learner) == 3_555_072
    assert 3.55e6 < count(learner) < 3.56e6


def test_text_starts_with_the_first_words_and_keeps_the_others_frozen(clip):
    learner = prompts(clip)
    sentences = tokenize([f"a photo of a {name}." for name in NAMES], clip)
    assert torch.equal(learner.ctx, clip.model.token_embedding(sentences[0, 1:3]))
    assert torch.equal(learner.tokens.ids, sentences)
    assert torch.equal(learner.tokens.slots, torch.tensor([[1, 2]]).expand(3, 2))


def test_at_depth_1_the_text_starts_at_the_zero_shot_features():
    clip = tiny_clip(64, 128, 3, dtype=torch.float64)
    text = prompts(clip, depth=1).text_prompts()
    expected = TextEncoder(clip).encode_ids(tokenize([f"a photo of a {name}." for name in NAMES], clip))
    assert (TextEncoder(clip)(text) - expected).abs().max() < 1e-12


def test_without_enough_words_the_context_is_random(clip):
    learner = prompts(clip, n_ctx=5)
    assert learner.ctx.shape == (5, 64)
    assert learner.ctx.std().item() == pytest.approx(0.02, rel=0.2)


def test_deep_projections_start_as_equal_clones_and_are_separate(clip):
    first, second = prompts(clip).compound_prompt_projections
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    with torch.no_grad():
        first.weight += 1
    assert not torch.equal(first.weight, second.weight)


def test_the_first_projection_and_the_deep_prompts_are_drawn_on_their_own(clip):
    learner = prompts(clip)
    assert not torch.equal(learner.proj.weight, learner.compound_prompt_projections[0].weight)
    assert not torch.equal(*learner.compound_prompts_text)


def test_image_prompts_are_linear_images_of_the_text_prompts(clip):
    learner = prompts(clip)
    text, image = learner.text_prompts(), learner.image_prompts()
    pairs = [(learner.proj, learner.ctx, image.shallow)]
    pairs += zip(learner.compound_prompt_projections, learner.compound_prompts_text, image.deep, strict=True)
    assert len(pairs) == 3
    assert all(torch.equal(a, b) for a, b in zip(text.deep, learner.compound_prompts_text, strict=True))
    for projection, source, result in pairs:
        expected = source.double() @ projection.weight.double().T + projection.bias.double()
        assert result.shape == (2, 128)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_text_prompts_learn_from_the_image_side_too(clip):
    learner = prompts(clip)
    image = learner.image_prompts()
    ImageEncoder(clip)(torch.ones(1, 3, 32, 32), image).square().sum().backward()
    assert learner.ctx.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in learner.compound_prompts_text)


def test_depth_of_the_shallower_tower_is_the_limit():
    clip = tiny_clip(text_layers=3, vision_layers=2)
    assert count(prompts(clip, depth=2)) == formula(2, 64, 64, 2)
    with pytest.raises(ConfigError, match=r"depth 3.*1\.\.2"):
        prompts(clip, depth=3)


@pytest.mark.parametrize("depth", [-1, 0, 4])
def test_depth_out_of_range_is_refused_with_the_range(clip, depth):
    with pytest.raises(ConfigError, match=rf"depth {depth}.*1\.\.3"):
        prompts(clip, depth=depth)


def test_loss_falls_on_a_problem_to_overfit(clip):
    first, last = losses_of_overfitting(clip, prompts(clip), len(NAMES))
    assert last < 0.5 * first
