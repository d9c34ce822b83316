"""Prompted text tower: against CLIP's own encode_text, a NumPy oracle, and the full-length reference path."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.encoders import ClassTokens, FrozenCLIP, TextEncoder, TextPrompts, tokenize
from cpt_plugin.encoders.text import PATHS
from cpt_plugin.errors import ConfigError, FeatureError
from tests.helpers.kept_bytes import kept_bytes
from tests.helpers.numpy_clip import numpy_state, run_text
from tests.helpers.tiny_clip import tiny_clip

EXACT = 1e-12
WORDS = ("cat", "golden_retriever", "boeing 737-800", "zzyzx", "St. Bernard", "a", "moon orchid café")


@cache
def clip64(width: int = 64, layers: int = 3) -> FrozenCLIP:
    return tiny_clip(text_width=width, text_layers=layers, vision_layers=1, dtype=torch.float64)


def draw(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def oracle(clip: FrozenCLIP, prompts: TextPrompts) -> np.ndarray:
    if prompts.images is not None:
        contexts = prompts.context.expand(-1, len(prompts.tokens), -1, -1)  # type: ignore[union-attr]
        return np.stack([oracle(clip, TextPrompts(prompts.tokens, one, prompts.deep)) for one in contexts])
    state, tokens = numpy_state(clip.model), prompts.tokens
    features = []
    for k in range(len(tokens)):
        end, slots = int(tokens.eot[k]), tokens.slots[k].tolist()
        rows = state["token_embedding.weight"][tokens.ids[k, : end + 1].numpy()].copy()
        if prompts.context is not None:
            context = prompts.context if prompts.context.ndim == 2 else prompts.context[k]
            for slot, vector in zip(slots, context.detach().numpy(), strict=True):
                rows[slot] = vector
        features.append(run_text(state, rows, slots, [p.detach().numpy() for p in prompts.deep]))
    return np.stack(features)


@st.composite
def cases(draw_: st.DrawFn) -> tuple[FrozenCLIP, TextPrompts]:
    clip = clip64(draw_(st.sampled_from([64, 128])), draw_(st.integers(1, 4)))
    position = draw_(st.sampled_from(["end", "middle", "front"]))
    n_ctx = draw_(st.integers(0, 6))
    prefixes = [None, *(["a photo of a"] if n_ctx == 4 or (n_ctx < 4 and position == "end") else [])]
    names = draw_(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
    tokens = ClassTokens.build(clip, names, n_ctx, draw_(st.sampled_from(prefixes)), position)
    if n_ctx == 0:
        return clip, TextPrompts(tokens)
    seed = draw_(st.integers(0, 999))
    shape = draw_(st.sampled_from([(n_ctx,), (len(names), n_ctx), (3, 1, n_ctx), (2, len(names), n_ctx)]))
    depth = draw_(st.integers(0, clip.text_layers - 1))
    deep = tuple(draw(n_ctx, clip.text_width, seed=seed + 1 + i) for i in range(depth))
    return clip, TextPrompts(tokens, draw(*shape, clip.text_width, seed=seed), deep)


def passes(encoder: TextEncoder) -> list[int]:
    """Filled with one entry for each time the tower runs."""
    seen: list[int] = []
    encoder.ln_final.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def learned(prompts: TextPrompts) -> list[torch.Tensor]:
    return [] if prompts.context is None else [prompts.context, *prompts.deep]


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_the_fast_paths_are_exact_in_features_and_gradients(case: tuple[FrozenCLIP, TextPrompts]) -> None:
    clip, prompts = case
    results = []
    for path in PATHS:
        features = TextEncoder(clip, path)(prompts)
        cotangent = draw(*features.shape, seed=7).detach()
        parameters = learned(prompts)
        grads = torch.autograd.grad(features, parameters, cotangent) if parameters else ()
        results.append((features, *grads))
    *faster, reference = results
    for fast in faster:
        for own, expected in zip(fast, reference, strict=True):
            assert relative(own, expected) <= EXACT


@settings(max_examples=40, deadline=None)
@given(case=cases(), path=st.sampled_from(PATHS), at_once=st.integers(1, 3))
def test_classes_in_chunks_give_the_same_features_and_gradients(
    case: tuple[FrozenCLIP, TextPrompts], path: str, at_once: int
) -> None:
    clip, prompts = case
    expected, chunked, seen = TextEncoder(clip, path)(prompts), TextEncoder(clip, path), []
    chunked._at_once = lambda *_: at_once  # type: ignore[method-assign]
    chunked._encode_at_once = lambda part: seen.append(1) or TextEncoder._encode_at_once(chunked, part)  # type: ignore
    found = chunked(prompts)
    chunks = math.ceil(len(prompts.tokens) / at_once)
    assert relative(found, expected) <= EXACT
    assert len(seen) == chunks
    if learned(prompts):
        cotangent = draw(*expected.shape, seed=7).detach()
        gradients = [torch.autograd.grad(features, learned(prompts), cotangent) for features in (found, expected)]
        assert all(relative(*pair) <= EXACT for pair in zip(*gradients, strict=True))
        assert len(seen) == (2 if chunks > 1 else 1) * chunks, "each chunk once more for its gradient"
    with torch.no_grad():
        assert relative(chunked(prompts), expected) <= EXACT


def kept(encoder: TextEncoder, prompts: TextPrompts) -> int:
    """Bytes kept for the backward pass, frozen weights aside."""
    with kept_bytes(encoder.parameters()) as found:
        features = encoder(prompts)
    assert features.requires_grad
    return found.total


@pytest.mark.parametrize(("path", "padded"), [*((path, False) for path in PATHS), ("auto", True)])
def test_the_budget_bounds_what_is_kept_for_the_backward_pass(path: str, padded: bool) -> None:
    clip = tiny_clip(text_width=128, text_layers=3, vision_layers=1)
    tokens = ClassTokens.build(clip, ["cat", "golden retriever", "tabby cat", "dog"] * 8, n_ctx=4)
    prompts = TextPrompts(tokens, torch.randn(4, 128).requires_grad_())
    whole = TextEncoder(clip, path, padded=padded)
    layout = tokens.layout(padded)
    assert layout is not None
    widths = layout.kept() if path == "auto" else 16 * 32 * whole._length(tokens)
    for budget in (kept(whole, prompts), kept(whole, prompts) / 7):
        size = TextEncoder(clip, path, memory_gib=budget / 2**30)._at_once(32, widths)
        part = prompts.select(slice(0, size))
        assert 0.3 * budget <= kept(whole, part) <= 1.3 * budget
    assert size < 10


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_no_budget_is_refused(budget: float) -> None:
    with pytest.raises(ConfigError, match="memory budget"):
        TextEncoder(clip64(), memory_gib=budget)


def test_chunks_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clip = clip64()
    tokens = ClassTokens.build(clip, ["cat", "dog", "golden retriever"], n_ctx=2)
    encoder = TextEncoder(clip, memory_gib=1e-9)
    with caplog.at_level("INFO", logger="cpt_plugin"):
        for seed in (1, 2):
            encoder(TextPrompts(tokens, draw(2, 64, seed=seed)))
    (line,) = [record.getMessage() for record in caplog.records if "at a time" in record.getMessage()]
    assert line == "Text encoder: 3 classes, 1 at a time, to keep within 1e-09 GiB"


def test_plain_texts_in_chunks() -> None:
    clip = clip64()
    ids = tokenize(["a cat", "golden retriever", "dog", "a big dog", "cat"], clip)
    expected = clip.model.encode_text(ids)
    assert relative(TextEncoder(clip, memory_gib=1e-9).encode_ids(ids), expected) <= EXACT


@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_features_equal_the_numpy_oracle(case: tuple[FrozenCLIP, TextPrompts]) -> None:
    clip, prompts = case
    found = TextEncoder(clip)(prompts).detach()
    assert relative(found, torch.from_numpy(oracle(clip, prompts))) <= EXACT


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("width", [64, 192])
def test_plain_texts_equal_clips_own_encode_text(path: str, width: int) -> None:
    clip = clip64(width)
    ids = tokenize(["a photo of a cat.", "dog", "a longer text about seven yellow submarines"], clip)
    assert relative(TextEncoder(clip, path).encode_ids(ids), clip.model.encode_text(ids)) <= EXACT


def test_context_made_of_the_words_gives_the_plain_text() -> None:
    clip, names = clip64(), ["tabby_cat", "dog"]
    tokens = ClassTokens.build(clip, names, n_ctx=4, prefix="a photo of a")
    encoder = TextEncoder(clip)
    context = clip.model.token_embedding(tokens.ids[0, 1:5])
    plain = clip.model.encode_text(tokenize(["a photo of a tabby cat.", "a photo of a dog."], clip))
    assert relative(encoder(TextPrompts(tokens, context)), plain) <= EXACT


def test_maple_prefix_replaces_only_the_first_two_words() -> None:
    clip = clip64()
    tokens = ClassTokens.build(clip, ["cat"], n_ctx=2, prefix="a photo of a")
    table = clip.model.token_embedding.weight
    context = table[tokens.ids[0, 1:3]].flip(0)
    swapped = clip.model.encode_text(tokenize(["photo a of a cat."], clip))
    assert relative(TextEncoder(clip)(TextPrompts(tokens, context)), swapped) <= EXACT


def test_every_learned_prompt_reaches_the_features() -> None:
    clip = clip64(layers=3)
    tokens = ClassTokens.build(clip, ["cat"], n_ctx=2)
    parameters = [draw(2, 64, seed=seed) for seed in range(3)]
    features = TextEncoder(clip)(TextPrompts(tokens, parameters[0], tuple(parameters[1:])))
    grads = torch.autograd.grad(features.square().sum(), parameters)
    assert all(float(grad.abs().min(dim=1).values.max()) > 0 for grad in grads)


def test_context_per_image_equals_a_loop_over_images() -> None:
    clip = clip64()
    tokens = ClassTokens.build(clip, ["cat", "golden retriever", "dog"], n_ctx=3)
    context, deep = draw(2, 1, 3, 64, seed=3), (draw(3, 64, seed=4),)
    encoder = TextEncoder(clip)
    together = encoder(TextPrompts(tokens, context, deep))
    one_by_one = torch.stack([encoder(TextPrompts(tokens, rows[0], deep)) for rows in context])
    assert together.shape == (2, 3, clip.embed_dim)
    assert relative(together, one_by_one) <= EXACT
    full = encoder(TextPrompts(tokens, context.expand(2, 3, 3, 64), deep))
    assert relative(full, one_by_one) <= EXACT


def test_class_order_does_not_matter() -> None:
    clip = clip64()
    tokens = ClassTokens.build(clip, ["cat", "golden retriever", "dog"], n_ctx=2)
    context, encoder = draw(2, 64, seed=5), TextEncoder(clip)
    some = encoder(TextPrompts(tokens.select([2, 0]), context))
    assert relative(some, encoder(TextPrompts(tokens, context))[[2, 0]]) <= EXACT


@pytest.mark.parametrize("position", ["end", "middle"])
@pytest.mark.parametrize("path", PATHS)
def test_gradcheck(path: str, position: str) -> None:
    clip = clip64(layers=2)
    tokens = ClassTokens.build(clip, ["cat", "golden retriever"], n_ctx=2, position=position)
    encoder = TextEncoder(clip, path)
    inputs = (draw(2, 64, seed=8), draw(2, 64, seed=9))
    assert torch.autograd.gradcheck(
        lambda context, deep: encoder(TextPrompts(tokens, context, (deep,))), inputs, fast_mode=True
    )


def rows_through(clip: FrozenCLIP, path: str, prompts: TextPrompts) -> tuple[int, int]:
    """Rows that enter the feed-forward parts of the first and of the last block."""
    blocks, rows = clip.model.transformer.resblocks, {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, key=key: rows.__setitem__(key, inputs[0][..., 0].numel()))
        for key, module in (("first", blocks[0].ln_2), ("last", blocks[-1].ln_2))
    ]
    TextEncoder(clip, path)(prompts)
    for hook in hooks:
        hook.remove()
    return rows["first"], rows["last"]


def test_the_fast_path_runs_only_the_rows_that_matter() -> None:
    clip = clip64()
    tokens = ClassTokens.build(clip, ["cat", "golden retriever"], n_ctx=2)
    prompts = TextPrompts(tokens, draw(2, 64, seed=1))
    prefix, suffixes = 1 + 2, (1 + 1 + 1) + (2 + 1 + 1)
    assert rows_through(clip, "auto", prompts) == (prefix + suffixes, 2)
    assert rows_through(clip, "truncated", prompts) == (2 * 7, 2 * 7)
    assert rows_through(clip, "reference", prompts) == (2 * 77, 2 * 77)


def test_what_the_first_block_makes_of_class_names_is_computed_once_and_again_for_other_weights() -> None:
    clip = tiny_clip(64, 64, 2, dtype=torch.float64)
    tokens = ClassTokens.build(clip, ["cat", "golden retriever"], n_ctx=2)
    encoder, block = TextEncoder(clip), clip.model.transformer.resblocks[0]
    rows: list[int] = []
    block.ln_1.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))

    def encoded(seed: int) -> list[int]:
        rows.clear()
        context = draw(2, 64, seed=seed)
        found = encoder(TextPrompts(tokens, context))
        seen = rows.copy()
        assert relative(found, TextEncoder(clip, "reference")(TextPrompts(tokens, context))) <= EXACT
        return seen

    prefix, suffixes = 1 + 2, (1 + 1 + 1) + (2 + 1 + 1)
    assert encoded(seed=1) == [suffixes, prefix]
    assert encoded(seed=2) == [prefix]
    weights = (block.attn.in_proj_weight, block.attn.in_proj_bias, block.ln_1.weight, clip.model.positional_embedding)
    for weight in (*weights, clip.model.token_embedding.weight):
        with torch.no_grad():
            weight.mul_(1.5)
        assert encoded(seed=3) == [suffixes, prefix]


@pytest.mark.parametrize(
    ("position", "specific", "images"), [("middle", False, 0), ("front", False, 3), ("end", True, 0), ("end", True, 3)]
)
def test_what_the_classes_do_not_share_falls_back_to_truncation(position: str, specific: bool, images: int) -> None:
    clip = clip64()
    tokens = ClassTokens.build(clip, ["cat", "golden retriever"], n_ctx=2, position=position)
    leading = (*([images] if images else []), *([2] if specific else [1] if images else []))
    prompts = TextPrompts(tokens, draw(*leading, 2, 64, seed=1))
    assert rows_through(clip, "auto", prompts) == rows_through(clip, "truncated", prompts)
    assert relative(TextEncoder(clip)(prompts), TextEncoder(clip, "reference")(prompts)) <= EXACT


def test_without_gradients_the_same_prompts_are_encoded_once_and_changed_ones_again() -> None:
    clip = tiny_clip(64, 64, 2, dtype=torch.float64)
    tokens = ClassTokens.build(clip, ["cat", "golden retriever"], n_ctx=2)
    encoder, context, deep = TextEncoder(clip), draw(2, 64, seed=1), draw(2, 64, seed=2)
    seen = passes(encoder)
    with torch.no_grad():
        first = encoder(TextPrompts(tokens, context, (deep,)))
        assert torch.equal(encoder(TextPrompts(tokens, context.clone(), (deep.clone(),))), first)
        assert len(seen) == 1
        changes = [
            lambda: context.data[0, 0].add_(1e-12),  # behind autograd's back
            lambda: deep.data[1, 3].mul_(2),
            lambda: context.copy_(draw(2, 64, seed=3)),
        ]
        for count, change in enumerate(changes, start=2):
            change()
            found = encoder(TextPrompts(tokens, context, (deep,)))
            assert len(seen) == count
            assert torch.equal(found, TextEncoder(clip)(TextPrompts(tokens, context, (deep,))))
            seen.pop()
        others = [
            TextPrompts(tokens, context),
            TextPrompts(tokens.select([1, 0]), context, (deep,)),
            TextPrompts(tokens, context.expand(2, -1, -1), (deep,)),
            TextPrompts(tokens, context.float(), (deep,)),
        ]
        for prompts in others:
            seen.clear()
            encoder(prompts)
            assert len(seen) == 1


def test_with_gradients_or_another_precision_nothing_is_remembered() -> None:
    clip = tiny_clip(64, 64, 2)
    tokens = ClassTokens.build(clip, ["cat", "dog"], n_ctx=2)
    encoder, context = TextEncoder(clip), draw(2, 64, seed=1).detach().float().requires_grad_()
    seen = passes(encoder)
    for _ in range(2):
        assert encoder(TextPrompts(tokens, context)).requires_grad
    assert len(seen) == 2
    with torch.no_grad():
        full = encoder(TextPrompts(tokens, context))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = encoder(TextPrompts(tokens, context))
    assert len(seen) == 4
    assert not torch.equal(full, half.to(full.dtype))
    assert encoder(TextPrompts(tokens, context)).requires_grad
    one = TextPrompts(tokens, context.detach().expand(3, 1, -1, -1))
    with torch.no_grad():
        encoder(one)
        encoder(one)
    assert len(seen) == 7, "contexts of each image are not remembered"


def test_encoder_is_frozen_and_stays_in_eval_mode() -> None:
    encoder = TextEncoder(clip64())
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert sum(1 for _ in encoder.parameters()) > 10


def test_half_weights_take_float32_prompts() -> None:
    half, full = tiny_clip(dtype=torch.float16), tiny_clip()
    tokens = ClassTokens.build(half, ["cat", "dog"], n_ctx=2)
    context = draw(2, 64, seed=1).detach().to(torch.float32).requires_grad_()
    deep = (draw(2, 64, seed=2).detach().to(torch.float32).requires_grad_(),)
    features = TextEncoder(half)(TextPrompts(tokens, context, deep))
    expected = TextEncoder(full)(TextPrompts(tokens, context, deep))
    assert features.dtype == torch.float16
    assert relative(features.float(), expected) < 1e-2
    features.float().sum().backward()
    assert context.grad is not None
    assert context.grad.dtype == torch.float32


def test_wrong_prompts_are_refused() -> None:
    clip = clip64(layers=3)
    tokens = ClassTokens.build(clip, ["cat", "dog"], n_ctx=2)
    good = draw(2, 64, seed=0)
    with pytest.raises(FeatureError, match=r"context has shape \(3, 64\); expected \(2, 64\)"):
        TextPrompts(tokens, draw(3, 64, seed=0))
    with pytest.raises(FeatureError, match="context has shape"):
        TextPrompts(tokens, draw(3, 2, 64, seed=0))
    with pytest.raises(FeatureError, match="context has shape"):
        TextPrompts(tokens, draw(64, seed=0))
    with pytest.raises(FeatureError, match=r"layer 3 has shape \(2, 128\)"):
        TextPrompts(tokens, good, (good, draw(2, 128, seed=0)))
    with pytest.raises(ConfigError, match="depth 4 exceeds the 3 blocks"):
        TextPrompts(tokens, good, (good, good, good))
    with pytest.raises(ConfigError, match="context is missing"):
        TextPrompts(tokens)
    with pytest.raises(ConfigError, match="0 context slots"):
        TextPrompts(ClassTokens.build(clip, ["cat"], n_ctx=0), good)
    with pytest.raises(ConfigError, match="unknown; choose one of auto, truncated, reference"):
        TextEncoder(clip, "fast")
