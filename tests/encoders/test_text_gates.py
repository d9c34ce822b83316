"""What the fast text path saves at ImageNet's size, by figures that do not depend on a clock.

Everything runs on the meta device: shapes and operations, no numbers. FLOPs are those of the matrix products that
torch's counter knows, attention among them; bytes are the storages kept for the backward pass, frozen weights aside.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import class_names
from cpt_plugin.encoders import ClassTokens, FrozenCLIP, TextEncoder, TextPrompts
from tests.helpers.kept_bytes import kept_bytes
from tests.helpers.tiny_clip import tiny_clip

K, WIDTH, LAYERS = 500, 512, 12
CASES = {"CoOp, 4 vectors": (4, 1), "CoOp, 16 vectors": (16, 1), "MaPLe": (2, 9)}
FEWER_FLOPS, FEWER_BYTES = 17, 15
FEWER_FLOPS_PADDED = 15


@cache
def full_text_tower() -> FrozenCLIP:
    return tiny_clip(text_width=WIDTH, text_layers=LAYERS, vision_layers=1, embed_dim=512)


@cache
def meta_tower() -> FrozenCLIP:
    clip = tiny_clip(text_width=WIDTH, text_layers=LAYERS, vision_layers=1, embed_dim=512)
    clip.model.to("meta")
    return clip


def on_meta(tokens: ClassTokens) -> ClassTokens:
    """The tokens without their numbers; where the rows lie is worked out before."""
    layouts, length = {padded: tokens.layout(padded) for padded in (False, True)}, tokens.length
    moved = dataclasses.replace(
        tokens, ids=tokens.ids.to("meta"), eot=tokens.eot.to("meta"), slots=tokens.slots.to("meta")
    )
    vars(moved)["length"] = length
    moved._layouts.update({padded: _without_numbers(layout) for padded, layout in layouts.items()})
    return moved


def _without_numbers(made: Any) -> Any:
    """A data class whose tensors, and those of data classes in it, are on the meta device."""
    changes = {}
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, torch.Tensor):
            changes[field.name] = value.to("meta")
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _without_numbers(value)
    return dataclasses.replace(made, **changes)


@cache
def cost(path: str, n_ctx: int, depth: int, classes: int = K, padded: bool = False) -> tuple[int, int]:
    """FLOPs of a forward and backward pass, and bytes kept in between."""
    words = {4: "a photo of a", 2: "a photo of a", 16: None}[n_ctx]
    tokens = on_meta(ClassTokens.build(full_text_tower(), class_names(classes), n_ctx, words))
    vectors = [torch.empty(n_ctx, WIDTH, device="meta", requires_grad=True) for _ in range(depth)]
    prompts = TextPrompts(tokens, vectors[0], tuple(vectors[1:]))
    encoder = TextEncoder(meta_tower(), path, memory_gib=1000, padded=padded)
    with FlopCounterMode(display=False) as flops:
        with kept_bytes(encoder.parameters()) as kept:
            features = encoder(prompts)
        features.backward(torch.empty_like(features))
    return flops.get_total_flops(), kept.total


def test_the_names_are_as_long_as_imagenets() -> None:
    tokens = ClassTokens.build(full_text_tower(), class_names(K), 4)
    assert len(set(tokens.class_names)) == K
    assert sum(tokens.name_lengths) + 2 * K == 2211, "2206 in performance notes made with another list of names"


def test_the_counters_see_what_they_should() -> None:
    """The reference against the arithmetic of its shapes: 77 rows a class, weights of 12 w^2 a block."""
    flops, kept = cost("reference", 4, 1)
    weights = 12 * WIDTH**2 * LAYERS
    attention = 2 * 77 * WIDTH * LAYERS
    linear = 2 * (2 * K * 77 * (weights + attention))
    assert linear <= flops <= 1.1 * linear
    assert 20 * 2**20 <= kept / K <= 30 * 2**20


@pytest.mark.parametrize("case", CASES)
def test_flops_and_memory_at_500_classes(case: str) -> None:
    fast, reference = (cost(path, *CASES[case]) for path in ("auto", "reference"))
    assert reference[0] >= FEWER_FLOPS * fast[0], reference[0] / fast[0]
    assert reference[1] >= FEWER_BYTES * fast[1], reference[1] / fast[1]


@pytest.mark.parametrize("case", CASES)
def test_flops_with_attention_to_all_classes_at_once(case: str) -> None:
    """What a GPU runs; the rows of the products are packed there too."""
    padded, reference = cost("auto", *CASES[case], padded=True), cost("reference", *CASES[case])
    assert reference[0] >= FEWER_FLOPS_PADDED * padded[0], reference[0] / padded[0]
