"""What the text encoder remembers is never what other weights, or another mode, made."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from cpt_plugin.encoders import ClassTokens, FrozenCLIP, TextEncoder, TextPrompts
from cpt_plugin.encoders._blocks import WeightState
from tests.helpers.tiny_clip import tiny_clip

NAMES = ["cat", "golden retriever"]


def clip64(seed: int = 0) -> FrozenCLIP:
    return tiny_clip(64, text_layers=2, vision_layers=1, dtype=torch.float64, seed=seed)


def prompts_of(clip: FrozenCLIP, tokens: ClassTokens | None = None) -> TextPrompts:
    tokens = tokens or ClassTokens.build(clip, NAMES, n_ctx=2)
    context = torch.randn(2, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TextPrompts(tokens, context.requires_grad_())


def reference(clip: FrozenCLIP, prompts: TextPrompts) -> torch.Tensor:
    return TextEncoder(clip, "reference")(prompts).detach()


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("through_data", [False, True])
@pytest.mark.parametrize("name", ["text_projection", "positional_embedding"])
def test_a_replaced_weight_is_another_weight(name: str, through_data: bool) -> None:
    clip = clip64()
    encoder, prompts = TextEncoder(clip), prompts_of(clip)
    with torch.no_grad():
        before = encoder(prompts)
        old = getattr(clip.model, name)
        if through_data:
            old.data = 1.5 * old.data
        else:
            for owner in (clip.model, encoder):
                setattr(owner, name, nn.Parameter(1.5 * old, requires_grad=False))
        after = encoder(prompts)
    assert not same(before, after)
    assert same(after, reference(clip, prompts))


def test_no_later_tensor_is_taken_for_a_freed_one() -> None:
    """What is remembered keeps its weights: else a new one could get a freed one's identity."""
    weight = torch.zeros(3)
    alive, state = weakref.ref(weight), WeightState([weight])
    assert state == WeightState([weight])
    del weight
    gc.collect()
    assert alive() is not None
    assert state != WeightState([torch.zeros(3)])


def test_two_encoders_on_the_same_tokens_keep_apart() -> None:
    clips = [clip64(0), clip64(1)]
    prompts = prompts_of(clips[0])
    encoders = [TextEncoder(clip) for clip in clips]
    for turn in range(3):
        for clip, encoder in zip(clips, encoders, strict=True):
            with torch.no_grad():
                assert same(encoder(prompts), reference(clip, prompts)), turn


def test_what_is_given_out_can_be_changed_without_changing_what_is_remembered() -> None:
    clip = clip64()
    encoder, prompts = TextEncoder(clip), prompts_of(clip)
    with torch.no_grad():
        first = encoder(prompts)
        expected = first.clone()
        first /= first.norm(dim=-1, keepdim=True)
        second = encoder(prompts)
        second.zero_()
        assert torch.equal(encoder(prompts), expected)


def test_features_from_inference_mode_are_not_given_to_training() -> None:
    clip = clip64()
    encoder, prompts = TextEncoder(clip), prompts_of(clip)
    with torch.inference_mode():
        encoder(prompts)
    with torch.no_grad():
        frozen = encoder(prompts)
    learned = torch.ones(len(NAMES), clip.embed_dim, dtype=torch.float64, requires_grad=True)
    (learned * frozen).sum().backward()
    assert torch.equal(learned.grad, frozen)  # type: ignore[arg-type]


def test_trained_weights_of_the_first_block_get_their_gradient() -> None:
    """Somebody may train CLIP's own weights: nothing may be taken for constant then."""
    clip = clip64()
    prompts = prompts_of(clip)
    fast, plain = TextEncoder(clip), TextEncoder(clip, "reference")
    fast(prompts)  # remembered with frozen weights
    block = clip.model.transformer.resblocks[0]
    trained = [block.ln_1.weight, block.attn.in_proj_weight, block.attn.in_proj_bias, clip.model.positional_embedding]
    for weight in trained:
        weight.requires_grad_()
    cotangent = torch.randn(len(NAMES), clip.embed_dim, dtype=torch.float64)
    found, expected = (torch.autograd.grad(encoder(prompts), trained, cotangent) for encoder in (fast, plain))
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() <= 1e-12 * other.abs().max()
