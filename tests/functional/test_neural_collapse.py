"""Degrees of neural collapse (our reconstruction of NPT's): loops, closed forms, invariances, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional import isomorphism_degree, language_collapse_degree
from cpt_plugin.functional.neural_collapse import FORMS
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems


def directions(vectors: list[list[float]], centered: bool) -> list[list[float]]:
    if centered:
        mean = [math.fsum(column) / len(vectors) for column in zip(*vectors, strict=True)]
        vectors = [[x - m for x, m in zip(vector, mean, strict=True)] for vector in vectors]
    return [oracles.unit(vector) for vector in vectors]


def degree(left: list[list[float]], right: list[list[float]], form: str) -> float:
    """Both degrees from the directions, entry by entry: of text with itself, or of text with images."""
    k = len(left)
    products = [[math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in right] for x in left]
    if form == "cosine" and left is right:
        pairs = [(i, j) for i in range(k) for j in range(k) if i != j]
        return math.fsum(abs(products[i][j] + 1 / (k - 1)) for i, j in pairs) / len(pairs)
    if form == "cosine":
        return 1 - math.fsum(products[i][i] for i in range(k)) / k
    norm = math.sqrt(math.fsum(p * p for row in products for p in row))
    gaps = [products[i][j] / norm - ((i == j) - 1 / k) / math.sqrt(k - 1) for i in range(k) for j in range(k)]
    return math.sqrt(math.fsum(gap * gap for gap in gaps))


def well_spread(vectors: torch.Tensor, centered: bool) -> bool:
    rows = vectors - vectors.mean(0) if centered else vectors
    return bool((rows.norm(dim=1) > 1e-3 * vectors.norm(dim=1).max()).all())


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_equal_the_loops(form: str, centered: bool) -> None:
    @given(problems())
    @LOSS_PROPERTY
    def check(problem: dict[str, torch.Tensor]) -> None:
        text = torch.nn.functional.normalize(problem["text"], dim=1)
        means = problem["frozen"]
        assume(len(text) > 1 and well_spread(text, centered) and well_spread(means, centered))
        texts, images = directions(text.tolist(), centered), directions(means.tolist(), centered)
        found = language_collapse_degree(problem["text"], form, centered)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        assert found.item() == pytest.approx(degree(texts, texts, form), abs=1e-9)
        assert isomorphism_degree(means, problem["text"], form, centered).item() == pytest.approx(
            degree(texts, images, form), abs=1e-9
        )

    check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_zero_at_perfect_collapse_wherever_the_simplex_is_moved_when_centered(form: str, k: int) -> None:
    simplex = torch.from_numpy(oracles.simplex(k, k + 2))
    assert language_collapse_degree(simplex, form).item() == pytest.approx(0, abs=1e-12)
    assert language_collapse_degree(simplex, form, centered=False).item() == pytest.approx(0, abs=1e-12)
    means = 0.3 * simplex + torch.ones(k + 2, dtype=torch.float64)
    assert isomorphism_degree(means, simplex, form).item() == pytest.approx(0, abs=1e-12)
    assert isomorphism_degree(means, simplex, "cosine", centered=False).item() > 0.1


def test_opposite_and_coinciding_features() -> None:
    simplex = torch.from_numpy(oracles.simplex(4, 4))
    assert isomorphism_degree(-simplex, simplex).item() == pytest.approx(2)
    same = torch.ones(4, 3, dtype=torch.float64)
    assert language_collapse_degree(same).item() == pytest.approx(1 / 3)
    assert language_collapse_degree(same, "frobenius").item() == pytest.approx(1)
    assert language_collapse_degree(same, centered=False).item() == pytest.approx(4 / 3)
    assert isomorphism_degree(same, same).item() == pytest.approx(1)
    pair = torch.tensor([[1.0, 0.1], [1.0, 0.2]], dtype=torch.float64)
    assert language_collapse_degree(pair).item() == pytest.approx(0, abs=1e-12)
    assert language_collapse_degree(pair, centered=False).item() > 1.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [3, 7, 50])
def test_rounding_noise_of_coinciding_features_is_no_geometry(k: int, dtype: torch.dtype) -> None:
    """The mean of k equal vectors differs from them in the last bit: a direction that would be the same for all."""
    same = torch.randn(1, 512, dtype=dtype, generator=torch.Generator().manual_seed(k)).expand(k, -1)
    spread = torch.randn(k, 512, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert language_collapse_degree(same).item() == pytest.approx(1 / (k - 1))
    assert language_collapse_degree(same, "frobenius").item() == pytest.approx(1, rel=1e-5)
    for form in FORMS:
        for means, text in ((same, same), (same, spread), (spread, same)):
            assert isomorphism_degree(means, text, form).item() == pytest.approx(1, rel=1e-5)


@given(problems())
@LOSS_PROPERTY
def test_unchanged_by_rotation_scaling_and_order(problem: dict[str, torch.Tensor]) -> None:
    text, means, order, turn = (problem[name] for name in ("text", "frozen", "classes", "rotation"))
    assume(len(text) > 1 and well_spread(torch.nn.functional.normalize(text, dim=1), True) and well_spread(means, True))
    for form in FORMS:
        torch.testing.assert_close(
            language_collapse_degree(3 * text[order] @ turn, form), language_collapse_degree(text, form),
            rtol=1e-7, atol=1e-7,
        )  # fmt: skip
        torch.testing.assert_close(
            isomorphism_degree(means[order] @ turn, text[order] @ turn, form), isomorphism_degree(means, text, form),
            rtol=1e-7, atol=1e-7,
        )  # fmt: skip


def test_half_precision_features_are_computed_in_float32() -> None:
    rng = np.random.default_rng(0)
    text = torch.tensor(rng.normal(size=(6, 512)))
    value = language_collapse_degree(text.half())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(language_collapse_degree(text).item(), abs=1e-3)


def test_refusals() -> None:
    text = torch.eye(3)
    with pytest.raises(ConfigError, match="unknown form 'cos'; use one of cosine, frobenius"):
        language_collapse_degree(text, "cos")
    with pytest.raises(FeatureError, match=r"at least two classes, got \(1, 3\)"):
        language_collapse_degree(text[:1])
    with pytest.raises(FeatureError, match="at least two classes"):
        language_collapse_degree(torch.ones(2, 3, 4))
    with pytest.raises(FeatureError, match=r"class_means \(2, 3\) does not match text \(3, 3\)"):
        isomorphism_degree(text[:2], text)
