"""Attention to all classes at once, a GPU's layout of the fast text path, forced on the CPU."""

from __future__ import annotations

from collections import Counter
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu_cases import TINY, Bench
from cpt_plugin import CPTHook
from cpt_plugin.encoders import ClassTokens, FrozenCLIP, TextEncoder, TextPrompts, text
from tests.encoders.test_text import EXACT, clip64, draw, learned, relative
from tests.helpers.device_calls import DeviceCalls


@st.composite
def cases(draw_: st.DrawFn) -> tuple[FrozenCLIP, TextPrompts]:
    """Names of 1 to 40 tokens, some the beginning of others, with shared contexts of all or of each image."""
    clip = clip64(64, draw_(st.integers(1, 3)))
    lengths = draw_(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    words = draw_(st.lists(st.sampled_from(["cat", "dog"]), min_size=len(lengths), max_size=len(lengths)))
    n_ctx, images = draw_(st.integers(1, 5)), draw_(st.sampled_from([None, 2]))
    names = [" ".join([word] * length) for word, length in zip(words, lengths, strict=True)]
    shape = (n_ctx, 64) if images is None else (images, 1, n_ctx, 64)
    seed, depth = draw_(st.integers(0, 999)), draw_(st.integers(0, clip.text_layers - 1))
    deep = tuple(draw(n_ctx, 64, seed=seed + 1 + i) for i in range(depth))
    return clip, TextPrompts(ClassTokens.build(clip, names, n_ctx), draw(*shape, seed=seed), deep)


def computed(encoder: TextEncoder, prompts: TextPrompts) -> list[torch.Tensor]:
    features = encoder(prompts)
    cotangent = draw(*features.shape, seed=7).detach()
    return [features, *torch.autograd.grad(features, learned(prompts), cotangent)]


@settings(max_examples=12, deadline=None)
@given(case=cases())
def test_features_and_gradients_are_those_of_all_77_positions(case: tuple[FrozenCLIP, TextPrompts]) -> None:
    clip, prompts = case
    found = computed(TextEncoder(clip, padded=True), prompts)
    for own, expected in zip(found, computed(TextEncoder(clip, "reference"), prompts), strict=True):
        assert relative(own, expected) <= EXACT


def test_plain_texts_and_gradcheck() -> None:
    clip = clip64(64, 2)
    tokens = ClassTokens.build(clip, ["cat", "golden retriever"], 1)
    encoder = TextEncoder(clip, padded=True)
    assert relative(encoder.encode_ids(tokens.ids), TextEncoder(clip, "reference").encode_ids(tokens.ids)) <= EXACT
    assert torch.autograd.gradcheck(
        lambda x: encoder(TextPrompts(tokens, x)).sum(-1), (draw(1, 64, seed=0),), fast_mode=True
    )


def test_no_more_sequences_at_once_than_a_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clip64(64, 2)
    tokens = ClassTokens.build(clip, ["cat", "golden retriever", "a", "dog", "moon"], 2)
    prompts = TextPrompts(tokens, draw(3, 1, 2, 64, seed=1))
    expected, sequences = TextEncoder(clip, "reference")(prompts), []
    monkeypatch.setattr(text, "MOST_SEQUENCES", 7)
    encoder = TextEncoder(clip, padded=True)
    encoder.ln_final.register_forward_pre_hook(lambda _, inputs: sequences.append(inputs[0].shape[:2].numel()))
    with torch.no_grad():
        assert relative(encoder(prompts), expected) <= EXACT
    assert sequences == [6, 6, 3]


def test_the_layout_is_chosen_by_the_device_of_the_weights() -> None:
    encoder = TextEncoder(clip64(64, 1))
    assert not encoder._pads()
    assert TextEncoder(clip64(64, 1), padded=True)._pads()
    for device, pads in (("meta", False), ("cuda", True)):
        weights = SimpleNamespace(text_projection=SimpleNamespace(device=torch.device(device)), padded=None)
        assert TextEncoder._pads(weights) == pads
        weights.padded = not pads
        assert TextEncoder._pads(weights) != pads


@cache
def calls(learner: str) -> dict[str, Counter[str]]:
    """Device calls of a training step with CPT at 100 classes of ImageNet's lengths, 12 blocks of text, by path."""
    bench = Bench(torch.device("cpu"), quick=True)
    bench.sizes = {**TINY, "text_layers": 12}
    trainer = bench.trainer(learner, 100, "fp32")
    CPTHook().attach(trainer)
    trainer.set_model_mode("train")
    batch = {"img": bench.images(bench.batch), "label": torch.arange(bench.batch)}
    found = {}
    for side, path, padded in (("padded", "auto", True), ("buckets", "auto", False), ("all 77", "reference", False)):
        trainer.model.text_encoder.path, trainer.model.text_encoder.padded = path, padded
        if path == "auto":
            trainer.forward_backward(batch)
        with DeviceCalls() as counted:
            trainer.forward_backward(batch)
        found[side] = counted.by_name
    return found


@pytest.mark.parametrize("learner", ["coop", "maple"])
def test_a_step_makes_no_more_calls_than_with_all_77_positions(learner: str) -> None:
    by_side = calls(learner)
    totals = {side: counts.total() for side, counts in by_side.items()}
    assert totals["padded"] <= totals["all 77"], totals
    assert totals["buckets"] > 2 * totals["all 77"], f"the groups are so few that a GPU may take them too: {totals}"
