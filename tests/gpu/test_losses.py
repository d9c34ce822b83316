"""Losses on the GPU: float32 against float64 on the CPU, and half-precision features under autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.functional import (
    balanced_softmax,
    class_balanced,
    class_convergence,
    etf_separation,
    focal,
    inter_dispersion,
    intra_dispersion,
    ldam,
    logit_adjustment,
    rotation_stabilization,
)
from cpt_plugin.regularizers import FeatureBatch, build
from cpt_plugin.regularizers.base import total

Problem = dict[str, Tensor]
CLASSES, BATCH, WIDTH = 50, 32, 512
TRAINED = ("text", "per_image", "image", "logits")
SCALE = 1024.0
"""Multiplies every loss before its backward pass, as a GradScaler does, so that float16 holds the gradients."""


def npt(p: Problem) -> Tensor:
    (regularizer,) = build(["npt"], {})
    return total(regularizer.compute(FeatureBatch(p["text"], p["image"], p["labels"])), p["text"])


LOSSES: dict[str, Callable[[Problem], Tensor]] = {
    "etf": lambda p: etf_separation(p["text"], p["assignment"]),
    "etf pair_mean": lambda p: etf_separation(p["text"], p["assignment"], "pair_mean", include_diagonal=True),
    "etf per image": lambda p: etf_separation(p["per_image"], p["assignment"]),
    "cc": lambda p: class_convergence(p["image"], p["text"], p["labels"]),
    "cc per image": lambda p: class_convergence(p["image"], p["per_image"], p["labels"]),
    "rs": lambda p: rotation_stabilization(p["text"], p["frozen"]),
    "rs per image": lambda p: rotation_stabilization(p["per_image"], p["frozen"]),
    "npt": npt,
    "dapt inter": lambda p: inter_dispersion(p["text"]),
    "dapt intra": lambda p: intra_dispersion(p["image"], p["prototypes"], p["labels"]),
    "la": lambda p: logit_adjustment(p["logits"], p["labels"], p["counts"]),
    "bs": lambda p: balanced_softmax(p["logits"], p["labels"], p["counts"]),
    "focal": lambda p: focal(p["logits"], p["labels"]),
    "cb": lambda p: class_balanced(p["logits"], p["labels"], p["counts"]),
    "ldam-drw": lambda p: ldam(p["logits"], p["labels"], p["counts"], 0.5, 30.0, 0.999),
}


def problem(dtype: torch.dtype) -> Problem:
    """Features of frozen CLIP's kind (float32) and trained ones, rounded to a type; everything else as it comes."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    frozen = normal(CLASSES, WIDTH)
    found = {
        "frozen": frozen,
        "text": frozen + 0.3 * normal(CLASSES, WIDTH),
        "per_image": frozen + 0.3 * normal(BATCH, CLASSES, WIDTH),
        "image": normal(BATCH, WIDTH),
        "logits": 3 * normal(BATCH, CLASSES),
        "prototypes": 0.9 * F.normalize(normal(CLASSES, WIDTH), dim=-1),
        "labels": torch.randint(CLASSES, (BATCH,), generator=generator),
        "assignment": torch.randint(6, (CLASSES,), generator=generator),
        "counts": torch.randint(1, 17, (CLASSES,), generator=generator),
    }
    return {name: value.to(dtype) if name in TRAINED else value for name, value in found.items()}


def computed(
    loss: Callable[[Problem], Tensor], given: Problem, device: torch.device, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Value, and gradient on all trained tensors in a row; floating tensors in ``dtype``, if given."""
    leaves = {name: v.to(device, dtype if v.is_floating_point() else None) for name, v in given.items()}
    trained = [leaves[name].requires_grad_() for name in TRAINED]
    value = loss(leaves)
    found = torch.autograd.grad(value * SCALE, trained, allow_unused=True)
    gradient = torch.cat([g.flatten().cpu().double() for g in found if g is not None])
    return value.detach().cpu(), gradient / SCALE


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_within_1e_5_of_float64_on_the_cpu(device: torch.device, name: str) -> None:
    given = problem(torch.float32)
    value, gradient = computed(LOSSES[name], given, device)
    expected, exact = computed(LOSSES[name], given, torch.device("cpu"), torch.float64)
    assert value.dtype == torch.float32
    assert relative(value, expected) < 1e-5
    assert exact.norm() > 0
    assert relative(gradient, exact) < 1e-5


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_features_under_autocast_are_computed_in_float32(
    device: torch.device, name: str, dtype: torch.dtype, rounding: float
) -> None:
    """The value is that of the same numbers held in float32; the gradient comes back in the features' type."""
    given = problem(dtype)
    with torch.autocast(device.type, dtype=dtype):
        square = given["frozen"][:, :CLASSES].to(device)
        assert (square @ square).dtype == dtype
        value, gradient = computed(LOSSES[name], given, device)
    expected, wide = computed(LOSSES[name], given, device, torch.float32)
    assert value.dtype == torch.float32
    assert relative(value, expected) < 1e-6
    assert relative(gradient, wide) < rounding
