"""Distances to anchors, and the simplex nearest to given features: closed forms, optimality, derivatives, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import nearest_simplex, text_anchoring
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems


@given(problems())
@LOSS_PROPERTY
def test_the_distance_equals_the_loop(problem: dict[str, torch.Tensor]) -> None:
    text, frozen = problem["text"], problem["frozen"]
    terms = [
        sum((a - b) ** 2 for a, b in zip(oracles.unit(g), oracles.unit(a), strict=True))
        for g, a in zip(text.tolist(), frozen.tolist(), strict=True)
    ]
    assert text_anchoring(text, frozen).item() == pytest.approx(math.fsum(terms) / len(terms), abs=1e-12)
    per_image = problem["per_image"]
    expected = sum(text_anchoring(rows, frozen).item() for rows in per_image) / len(per_image)
    assert text_anchoring(per_image, frozen).item() == pytest.approx(expected, abs=1e-12)
    turn = problem["rotation"]
    assert text_anchoring(3 * text @ turn, frozen @ turn).item() == pytest.approx(
        text_anchoring(text, frozen).item(), abs=1e-12
    )


def test_derivatives_and_no_gradient_to_the_anchors() -> None:
    generator = torch.Generator().manual_seed(1)
    text, anchors = (
        torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    assert torch.autograd.gradcheck(lambda g: text_anchoring(g, anchors.detach()), (text,))
    text_anchoring(text, anchors).backward()
    assert anchors.grad is None


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(0, 5))
@LOSS_PROPERTY
def test_the_simplex_is_one_and_no_rotation_of_it_is_nearer(seed: int, classes: int, spare: int) -> None:
    rng = np.random.default_rng(seed)
    features = torch.tensor(rng.normal(size=(classes, classes - 1 + spare)) + rng.normal(size=classes - 1 + spare))
    anchors = nearest_simplex(features)
    cosines = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(anchors @ anchors.t(), cosines, rtol=0, atol=1e-9)
    best = text_anchoring(features, anchors).item()
    for turn in (np.linalg.qr(rng.normal(size=(features.shape[1],) * 2))[0] for _ in range(5)):
        assert text_anchoring(features, anchors @ torch.tensor(turn)).item() >= best - 1e-9
    nudge = torch.tensor(rng.normal(size=(features.shape[1],) * 2)) * 1e-3
    small = torch.linalg.matrix_exp(nudge - nudge.t())
    assert text_anchoring(features, anchors @ small).item() >= best - 1e-9


def test_a_simplex_is_its_own_nearest_one() -> None:
    simplex = torch.from_numpy(oracles.simplex(5, 7))
    torch.testing.assert_close(nearest_simplex(3 * simplex), simplex, rtol=0, atol=1e-9)
    one = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(nearest_simplex(one), one / 5)
    assert nearest_simplex(torch.eye(3)).dtype == torch.float32


def test_refusals() -> None:
    with pytest.raises(FeatureError, match="no simplex of 4 vertices in 2 dimensions"):
        nearest_simplex(torch.randn(4, 2))
    with pytest.raises(FeatureError, match=r"anchors \(2, 3\) does not match text \(3, 3\)"):
        text_anchoring(torch.eye(3), torch.eye(3)[:2])
