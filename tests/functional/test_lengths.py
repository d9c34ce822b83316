"""Losses of features of any length: what a power of two may not change, float64 beside float32, zero and NaN rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin import CPTLoss
from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.encoders.frozen_features import class_means
from cpt_plugin.functional import (
    _normalize,
    class_convergence,
    etf_separation,
    gaussian_anchoring,
    inter_dispersion,
    intra_dispersion,
    isomorphism_degree,
    language_collapse_degree,
    nearest_simplex,
    pair_separation,
    rotation_stabilization,
    text_anchoring,
    weighted_rotation,
)
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY

A_FEW = settings(LOSS_PROPERTY, max_examples=25)
K, D, B = 6, 5, 4
IDS, LABELS, WEIGHTS = [0, 0, 0, 1, 1, 2], [5, 0, 2, 2], [0.5, 1.0, 1.5, 1.0, 0.5, 1.5]
Features = tuple[torch.Tensor, ...]

LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "etf": lambda text, frozen, image: etf_separation(text, IDS),
    "etf of each image": lambda text, frozen, image: etf_separation(torch.stack([text, frozen]), IDS, "pair_mean"),
    "cc": lambda text, frozen, image: class_convergence(image, text, LABELS),
    "rs": lambda text, frozen, image: rotation_stabilization(text, frozen),
    "weighted rs": lambda text, frozen, image: weighted_rotation(text, frozen, WEIGHTS),
    "pairs": lambda text, frozen, image: pair_separation(text, IDS, weights=WEIGHTS, frozen_text=frozen, margin=0.1),
    "gaussian": lambda text, frozen, image: gaussian_anchoring(text, frozen, WEIGHTS),
    "inter": lambda text, frozen, image: inter_dispersion(text),
    "intra": lambda text, frozen, image: intra_dispersion(image, torch.full_like(text, 0.3), LABELS),
    "anchors": lambda text, frozen, image: text_anchoring(text, frozen),
    "simplex": lambda text, frozen, image: text_anchoring(text, nearest_simplex(frozen)),
    "lcd": lambda text, frozen, image: language_collapse_degree(text),
    "mid": lambda text, frozen, image: isomorphism_degree(frozen / 8, text, "frobenius"),
}


@st.composite
def features(draw: st.DrawFn, dtype: torch.dtype, decades: int) -> tuple[Features, Features]:
    """Features of length about 1, and a power of two for each row, from 1e-decades to 1e+decades."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plain = tuple(torch.tensor(rng.normal(size=(n, D))).to(dtype) for n in (K, K, B))
    most = math.floor(decades * math.log2(10))
    low, high = draw(st.sampled_from([(-most, most), (most, most), (-most, -most), (0, 0)]))
    powers = [2.0 ** rng.integers(low, high + 1, size=(len(rows), 1)) for rows in plain]
    return plain, tuple(torch.tensor(of_rows, dtype=dtype) for of_rows in powers)


def value_and_slopes(name: str, rows: Features, powers: Features) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of the rows times their powers, and its gradients, if any, on the rows as they are."""
    inputs = [feature.mul(of_rows).requires_grad_() for feature, of_rows in zip(rows, powers, strict=True)]
    value = LOSSES[name](*inputs)
    if not value.requires_grad:
        return value, []
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    pairs = [(slope, of_rows) for slope, of_rows in zip(found, powers, strict=True) if slope is not None]
    return value.detach(), [slope.double() * of_rows for slope, of_rows in pairs]


@pytest.mark.parametrize("waits", [False, True], ids=["host reads lengths", "as on an accelerator"])
@pytest.mark.parametrize(("dtype", "decades"), [(torch.float32, 36), (torch.float64, 300)], ids=["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_power_of_two_changes_no_bit_of_the_value(
    name: str, dtype: torch.dtype, decades: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:
        monkeypatch.setattr(_normalize, "_surely_in_range", lambda norms: False)

    @given(features(dtype, decades))
    @A_FEW
    def check(case: tuple[Features, Features]) -> None:
        rows, powers = case
        if name == "mid":  # means are not scaled to length 1 one by one: one power for all of them
            powers = powers[0], powers[1][:1].expand(K, 1), powers[2]
        value, slopes = value_and_slopes(name, rows, powers)
        expected, others = value_and_slopes(name, rows, tuple(map(torch.ones_like, powers)))
        assert torch.equal(value, expected)
        for slope, other in zip(slopes, others, strict=True):
            torch.testing.assert_close(slope, other, rtol=1e-5, atol=1e-9)

    check()


@given(st.integers(0, 2**32 - 1), st.floats(-37, 37.5))
@LOSS_PROPERTY
def test_float32_equals_the_loops_in_float64_at_any_length(seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    text, frozen, image = (torch.tensor(rng.normal(size=(n, D)) * 10.0**exponent).float() for n in (K, K, B))
    found = etf_separation(text, IDS), class_convergence(image, text, LABELS), rotation_stabilization(text, frozen)
    t, f, i = (rows.double().tolist() for rows in (text, frozen, image))
    expected = oracles.etf(t, IDS), oracles.convergence(i, t, LABELS), oracles.rotation(t, f)
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("size", [1e-37, 1e-23, 1e-20, 1e19, 1e38])
def test_gradient_of_the_unit_vector_at_the_ends_of_float32(size: float) -> None:
    row, direction = torch.tensor([[0.6, -0.8]]) * size, torch.tensor([[1.0, 2.0]])
    given_row = row.clone().requires_grad_()
    (_normalize.unit(given_row, torch.float32) * direction).sum().backward()
    wide = row.double().requires_grad_()
    (wide / wide.norm() * direction.double()).sum().backward()
    assert given_row.grad is not None
    torch.testing.assert_close(given_row.grad.double() * size, wide.grad * size, rtol=1e-6, atol=1e-6)


def test_a_second_derivative_of_rows_of_any_length() -> None:
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def curvature(scale: float) -> torch.Tensor:
        scaled = (rows * scale).requires_grad_()
        (first,) = torch.autograd.grad(_normalize.unit(scaled, torch.float64).prod(), scaled, create_graph=True)
        (second,) = torch.autograd.grad((first * scale).square().sum(), scaled)
        return second * scale

    for scale in (2.0**-700, 2.0**700):
        torch.testing.assert_close(curvature(scale), curvature(1.0), rtol=1e-12, atol=1e-14)


def test_zero_rows_stay_zero_beside_rows_of_any_length() -> None:
    rows = torch.tensor([[0.0, 0.0], [3e38, 0.0], [0.0, 1e-44], [3.0, 4.0]], requires_grad=True)
    units = _normalize.unit(rows, torch.float32)
    assert torch.equal(units, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    (units * torch.tensor([1.0, 2.0]))[[0, 1, 3]].sum().backward()
    assert rows.grad is not None
    assert rows.grad[0].tolist() == [1.0, 2.0]
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 2.0, 1e10, 1e39, 1e308])
def test_inter_dispersion_of_zero_rows_is_its_formula(temperature: float) -> None:
    """Distances 0 between zero vectors, 1 to a unit vector, sqrt 2 between orthogonal ones."""
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [0.0, 1e-30], [2.0, 0.0]])
    distances = [0, 1, 1, 1, 1, 1, 1, 2, 0, 2]
    expected = math.fsum(math.exp(-temperature * distance) for distance in distances) / 10
    assert inter_dispersion(rows, temperature).item() == pytest.approx(expected, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["image", "text"])
def test_nan_and_infinite_features_give_nan(which: str, wrong: float) -> None:
    given_rows = {"image": torch.eye(3).clone(), "text": torch.eye(3).clone()}
    given_rows[which][0, 1] = wrong
    value, parts = CPTLoss(torch.eye(3), list("abc"))(**given_rows, labels=[0, 1, 2])
    assert value.isnan()
    assert {name for name, part in parts.items() if part.isnan()} == ({"cc"} if which == "image" else {*parts})


@pytest.mark.parametrize("size", [1e-300, 1e-23, 1.0, 1e19, 1e300])
def test_class_means_and_clusters_do_not_depend_on_the_length(size: float) -> None:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means = class_means([(rows * size, torch.arange(8) // 2)], list("abcd"))
    torch.testing.assert_close(means, class_means([(rows, torch.arange(8) // 2)], list("abcd")), rtol=1e-12, atol=0)
    pytest.importorskip("faiss", reason="clusters need FAISS")
    clusters = [SemanticClusters.fit(features, list("abcdefgh"), 3) for features in (rows, rows * size)]
    assert clusters[0].digest == clusters[1].digest
