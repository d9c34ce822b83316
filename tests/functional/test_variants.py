"""Variants of the CPT terms against loops over float64 numbers, and at their borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional import (
    ClusterBuckets,
    class_weights,
    etf_separation,
    gaussian_anchoring,
    pair_separation,
    rotation_stabilization,
    schedule_factor,
    squared_rotations,
    weighted_rotation,
)
from cpt_plugin.functional.etf import REDUCTIONS
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems

PROPERTY = settings(LOSS_PROPERTY, max_examples=40)


def weights_of(classes: int) -> torch.Tensor:
    return torch.linspace(0.2, 3.0, classes, dtype=torch.float64)


def separation(text, assignment, reduction, weights, frozen=None, margin=0.0):
    """The formula, ordered pair by ordered pair."""
    sums, several = [], sum(assignment.count(m) > 1 for m in set(assignment))
    for cluster in set(assignment):
        members = [i for i, m in enumerate(assignment) if m == cluster]
        k, value = len(members), 0.0
        for i in members:
            for j in members:
                if i != j:
                    target = -1 / (k - 1)
                    if frozen is not None:
                        target = max(oracles.cosine(frozen[i], frozen[j]) - margin, -1)
                    gap = oracles.cosine(text[i], text[j]) - target
                    value += (weights[i] + weights[j]) / 2 * gap**2
        sums.append(value if reduction == "frobenius" else value / max(k * (k - 1), 1))
    return sum(sums) / (len(sums) if reduction == "frobenius" else max(several, 1))


@given(problems())
@PROPERTY
def test_separation_is_the_formula(problem: dict[str, torch.Tensor]) -> None:
    text, frozen, assignment = problem["text"], problem["frozen"], problem["assignment"]
    v = weights_of(len(text))
    plain = text.tolist(), assignment.tolist()
    for reduction in REDUCTIONS:
        for given_frozen, margin in ((None, 0.0), (frozen, 0.1), (frozen, 1.2)):
            rows = None if given_frozen is None else given_frozen.tolist()
            expected = separation(*plain, reduction, v.tolist(), rows, margin)
            value = pair_separation(text, assignment, reduction, v, given_frozen, margin)
            assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-11)


@given(problems())
@PROPERTY
def test_equal_counts_give_the_unweighted_terms(problem: dict[str, torch.Tensor]) -> None:
    text, frozen, assignment = problem["text"], problem["frozen"], problem["assignment"]
    v = class_weights(torch.full((len(text),), 3), 1.5)
    for reduction in REDUCTIONS:
        expected = etf_separation(text, assignment, reduction)
        for weights in (v, None):
            value = pair_separation(text, assignment, reduction, weights)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    expected = rotation_stabilization(text, frozen)
    torch.testing.assert_close(weighted_rotation(text, frozen, v), expected, rtol=1e-12, atol=1e-12)


@given(problems())
@PROPERTY
def test_unchanged_when_classes_and_clusters_are_renumbered(problem: dict[str, torch.Tensor]) -> None:
    text, frozen, order = problem["text"], problem["frozen"], problem["classes"]
    assignment, v = problem["assignment"], weights_of(len(text))
    terms = [
        (lambda t, f, a, w: pair_separation(t, a, "frobenius", w, f, 0.1)),
        (lambda t, f, a, w: weighted_rotation(t, f, w)),
        (lambda t, f, a, w: gaussian_anchoring(t, f, w.square(), w)),
    ]
    for term in terms:
        value = term(text, frozen, assignment, v)
        again = term(text[order], frozen[order], 50 - 3 * assignment[order], v[order])
        torch.testing.assert_close(again, value, rtol=1e-10, atol=1e-10)


@given(problems())
@PROPERTY
def test_text_of_each_image_gives_the_mean_over_images(problem: dict[str, torch.Tensor]) -> None:
    texts, assignment, v = problem["per_image"], problem["assignment"], weights_of(problem["per_image"].shape[1])
    frozen = problem["frozen"]
    for term in (
        lambda text: pair_separation(text, assignment, "pair_mean", v, frozen, 0.1),
        lambda text: weighted_rotation(text, frozen, v),
        lambda text: gaussian_anchoring(text, frozen, v, v),
    ):
        mean = torch.stack([term(text) for text in texts]).mean()
        torch.testing.assert_close(term(texts), mean, rtol=1e-10, atol=1e-10)


@given(problems())
@PROPERTY
def test_rotations_are_the_formulas(problem: dict[str, torch.Tensor]) -> None:
    text, frozen = problem["text"], problem["frozen"]
    classes = len(text)
    v, radii = weights_of(classes), weights_of(classes).flip(0)
    l1, nll, squares = 0.0, 0.0, []
    for g, anchor, weight, radius in zip(text.tolist(), frozen.tolist(), v.tolist(), radii.tolist(), strict=True):
        apart = [a - b for a, b in zip(oracles.unit(g), oracles.unit(anchor), strict=True)]
        squares.append(math.fsum(x * x for x in apart))
        l1 += weight * math.fsum(map(abs, apart)) / classes
        nll += weight * (squares[-1] / (2 * radius**2) + math.log(radius)) / classes
    assert weighted_rotation(text, frozen, v).item() == pytest.approx(l1, rel=1e-10, abs=1e-12)
    assert squared_rotations(text, frozen).tolist() == pytest.approx(squares, rel=1e-9, abs=1e-12)
    assert gaussian_anchoring(text, frozen, radii.square(), v).item() == pytest.approx(nll, rel=1e-9, abs=1e-11)


def test_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    text, frozen = (torch.randn(6, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    texts = torch.randn(2, 6, 5, generator=rng, dtype=torch.float64)
    assignment, v = torch.tensor([0, 1, 0, 1, 0, 2]), weights_of(6)
    for value in (text, texts):
        for term in (
            lambda t: pair_separation(t, assignment, "frobenius", v),
            lambda t: pair_separation(t, assignment, "pair_mean", v, frozen, 0.1),
            lambda t: weighted_rotation(t, frozen, v),
            lambda t: gaussian_anchoring(t, frozen, v, v),
        ):
            assert torch.autograd.gradcheck(term, value.clone().requires_grad_())


def test_the_margin_is_what_the_pairs_are_apart_at_the_minimum() -> None:
    """Frozen: two pairs at 60 degrees. Zero where each pair's cosine is 0.5 - 0.2, whatever the other pair does."""
    angle = math.acos(0.5 - 0.2)
    frozen = torch.tensor([[1.0, 0.0, 0.0], [0.5, math.sqrt(0.75), 0.0]] * 2, dtype=torch.float64)
    turned = torch.tensor([[0.0, 0.0, 4.0], [0.0, math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    flat = torch.tensor([[1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    text, assignment = torch.cat([turned, flat]), torch.tensor([0, 0, 1, 1])
    assert pair_separation(text, assignment, frozen_text=frozen, margin=0.2).item() == pytest.approx(0, abs=1e-15)
    assert pair_separation(text, assignment, frozen_text=frozen, margin=0.1).item() == pytest.approx(2 * 0.01)
    assert pair_separation(frozen, assignment, frozen_text=frozen, margin=0.0).item() == pytest.approx(0, abs=1e-15)


def test_no_target_is_below_that_of_opposite_vectors() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert pair_separation(opposite, torch.zeros(2).long(), frozen_text=opposite, margin=0.5).item() == 0


def test_clusters_of_one_class_have_no_pair_but_a_gradient() -> None:
    text = torch.eye(3).requires_grad_()
    value = pair_separation(text, torch.arange(3), weights=torch.ones(3), frozen_text=torch.eye(3))
    value.backward()
    assert value.isfinite()
    assert torch.equal(text.grad @ torch.ones(3), torch.zeros(3))


def test_the_dead_zone_is_that_of_the_rotation_term() -> None:
    frozen = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for shift, live in ((1e-7, False), (1e-5, True)):
        text = (frozen + torch.tensor([[0.0, shift]])).requires_grad_()
        value = weighted_rotation(text, frozen, torch.tensor([2.0]))
        (gradient,) = torch.autograd.grad(value, text)
        assert value.item() == pytest.approx(2 * shift, rel=1e-4)
        assert bool(gradient.norm() > 1) == live


def test_a_wide_radius_holds_loosely() -> None:
    """The gradient on the unit sphere, at unit length, is sin(angle) / (K r^2)."""
    frozen, angle = torch.tensor([[1.0, 0.0]] * 2, dtype=torch.float64), 0.3
    text = torch.tensor([[math.cos(angle), math.sin(angle)]] * 2, dtype=torch.float64).requires_grad_()
    gaussian_anchoring(text, frozen, torch.tensor([0.04, 0.16])).backward()
    expected = [math.sin(angle) / (2 * 0.04), math.sin(angle) / (2 * 0.16)]
    assert text.grad.norm(dim=1).tolist() == pytest.approx(expected, rel=1e-6)


def test_class_weights() -> None:
    counts = [100, 10, 1, 0]
    for power in (0.0, 0.5, 2.0):
        raw = [max(n, 1) ** -power for n in counts]
        found = class_weights(torch.tensor(counts), power).tolist()
        assert found == pytest.approx([4 * r / math.fsum(raw) for r in raw], rel=1e-12)
        assert np.mean(found) == pytest.approx(1)
    assert class_weights(torch.tensor(counts), 0.0).tolist() == [1.0] * 4
    with pytest.raises(FeatureError, match=r"counts must be \(K,\), a number for each class, got .* \(2, 2\)"):
        class_weights(torch.ones(2, 2), 1.0)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [("constant", (1, 1, 1, 1)), ("falling", (1, 0.75, 0.5, 0)), ("rising", (0, 0.25, 0.5, 1))],
)
def test_schedules(schedule: str, values: tuple[float, ...]) -> None:
    found = [schedule_factor(schedule, p) for p in (0, 1 / 3, 0.5, 1)]
    assert found == pytest.approx(values, abs=1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    text, frozen = torch.eye(4, 6).bfloat16(), torch.ones(4, 6).half()
    buckets = ClusterBuckets.from_assignment(torch.tensor([0, 0, 1, 1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [
            pair_separation(text, buckets, weights=torch.ones(4).double(), frozen_text=frozen),
            weighted_rotation(text, frozen, torch.ones(4)),
            gaussian_anchoring(text, frozen, torch.ones(4)),
        ]
    cosine = 1 / math.sqrt(6)
    assert [value.dtype for value in values] == [torch.float32] * 3
    expected = [2.0, 1 - cosine + 5 * cosine, 1 - cosine]
    assert [value.item() for value in values] == pytest.approx(expected, rel=1e-5)


def test_refusals() -> None:
    text, assignment = torch.eye(3), torch.zeros(3).long()
    with pytest.raises(ConfigError, match="unknown schedule 'up'"):
        schedule_factor("up", 0.5)
    with pytest.raises(ConfigError, match="unknown ETF reduction 'sum'"):
        pair_separation(text, assignment, "sum")
    with pytest.raises(FeatureError, match=r"frozen_text \(2, 3\) does not match text"):
        pair_separation(text, assignment, frozen_text=text[:2])
    with pytest.raises(FeatureError, match=r"weights \(2,\) must have one entry for each of 3 classes"):
        weighted_rotation(text, text, torch.ones(2))
