"""DAPT's two losses: loops over the formulas, closed forms, invariances, derivatives, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional import _checks, inter_dispersion, intra_dispersion
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems


def inter(text: list[list[float]], temperature: float) -> float:
    units = [oracles.unit(vector) for vector in text]
    pairs = [
        math.exp(-temperature * sum((a - b) ** 2 for a, b in zip(units[j], units[k], strict=True)))
        for k in range(len(units))
        for j in range(k)
    ]
    return math.fsum(pairs) / len(pairs) if pairs else 0.0


def intra(image: list[list[float]], prototypes: list[list[float]], labels: list[int]) -> float:
    terms = [
        (f - s) ** 2
        for vector, label in zip(image, labels, strict=True)
        for f, s in zip(oracles.unit(vector), prototypes[label], strict=True)
    ]
    return math.fsum(terms) / len(terms)


@given(problems(), st.sampled_from([0.5, 2.0, 7.0]))
@LOSS_PROPERTY
def test_inter_dispersion_equals_the_loop(problem: dict[str, torch.Tensor], temperature: float) -> None:
    text = problem["text"]
    value = inter_dispersion(text, temperature)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(inter(text.tolist(), temperature), abs=1e-12)
    assert inter_dispersion(text.float(), temperature).item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)


@given(problems())
@LOSS_PROPERTY
def test_intra_dispersion_equals_the_loop(problem: dict[str, torch.Tensor]) -> None:
    image, prototypes, labels = problem["image"], problem["frozen"], problem["labels"]
    value = intra_dispersion(image, prototypes, labels)
    assert value.item() == pytest.approx(intra(image.tolist(), prototypes.tolist(), labels.tolist()), abs=1e-12)


@given(problems())
@LOSS_PROPERTY
def test_unchanged_by_rotation_and_order(problem: dict[str, torch.Tensor]) -> None:
    text, image, prototypes, labels, order, turn = (
        problem[name] for name in ("text", "image", "frozen", "labels", "classes", "rotation")
    )
    torch.testing.assert_close(inter_dispersion(5 * text[order] @ turn), inter_dispersion(text), rtol=1e-9, atol=1e-12)
    turned = intra_dispersion(2 * image @ turn, prototypes[order] @ turn, torch.argsort(order)[labels])
    torch.testing.assert_close(turned, intra_dispersion(image, prototypes, labels), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 9])
def test_closed_forms(k: int) -> None:
    simplex = torch.from_numpy(oracles.simplex(k, k))
    assert inter_dispersion(simplex).item() == pytest.approx(math.exp(-4 * (1 + 1 / (k - 1))), rel=1e-12)
    assert inter_dispersion(torch.ones(k, 4, dtype=torch.float64)).item() == pytest.approx(1, rel=1e-12)
    assert inter_dispersion(simplex[:1]).item() == 0.0
    assert intra_dispersion(simplex, simplex, torch.arange(k)).item() == pytest.approx(0, abs=1e-30)
    assert intra_dispersion(simplex, -simplex, torch.arange(k)).item() == pytest.approx(4 / k, rel=1e-12)


def test_the_distance_is_divided_by_the_dimension_and_prototypes_are_not_normalized() -> None:
    image, labels = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([0])
    assert intra_dispersion(image, torch.tensor([[0.5, 0.0, 0.0, 0.0]]), labels).item() == pytest.approx(0.25 / 4)


def test_text_features_of_each_image_are_averaged() -> None:
    text = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = sum(inter(rows.tolist(), 2.0) for rows in text) / 3
    assert inter_dispersion(text).item() == pytest.approx(expected, abs=1e-12)


def test_derivatives() -> None:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    image = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 3, 1, 0])
    assert torch.autograd.gradcheck(inter_dispersion, (text,))
    assert torch.autograd.gradcheck(lambda f: intra_dispersion(f, text.detach(), labels), (image,))


def test_refusals() -> None:
    text = torch.eye(3)
    with pytest.raises(ConfigError, match="temperature must be a finite number > 0, got 0"):
        inter_dispersion(text, 0)
    with pytest.raises(FeatureError, match=r"label 3 is outside 0\.\.2"):
        intra_dispersion(text, text, torch.tensor([0, 1, 3]))
    with pytest.raises(FeatureError, match=r"image \(3, 2\) and prototypes \(3, 3\) differ in the feature dimension"):
        intra_dispersion(torch.ones(3, 2), text, torch.tensor([0, 1, 2]))
    with pytest.raises(FeatureError, match="one entry a row"):
        intra_dispersion(text, text, torch.tensor([0]))
    with pytest.raises(FeatureError, match=r"prototypes must have shape \(K, d\), got \(3, 3, 3\)"):
        intra_dispersion(text, text.expand(3, -1, -1), torch.tensor([0, 1, 2]))
    with pytest.raises(FeatureError, match="image is on meta, prototypes on cpu"):
        intra_dispersion(text.to("meta"), text, torch.tensor([0, 1, 2]))


def test_without_a_check_a_label_out_of_range_makes_the_loss_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens on an accelerator, where labels are not read by the host."""
    monkeypatch.setattr(_checks, "check_labels", lambda labels, num_classes: None)
    text = torch.eye(3)
    assert intra_dispersion(text, text, torch.tensor([0, 1, 3])).isnan()
    assert intra_dispersion(text, text, torch.tensor([0, 1, 2])).isfinite()


def test_never_waits_for_the_device() -> None:
    """Tensors on the meta device have no values, so any read of a value by the host would raise."""
    text = torch.empty(6, 3, device="meta", requires_grad=True)
    image = torch.empty(4, 3, device="meta", requires_grad=True)
    inter_dispersion(text).backward()
    intra_dispersion(image, text.detach(), torch.empty(4, dtype=torch.long, device="meta")).backward()
    assert text.grad.shape == (6, 3)
    assert image.grad.shape == (4, 3)


def test_zero_vectors_and_coinciding_features_have_finite_gradients() -> None:
    for rows in (torch.zeros(3, 4), torch.ones(3, 4)):
        text, image = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        (inter_dispersion(text) + intra_dispersion(image, torch.eye(3, 4), torch.arange(3))).backward()
        assert text.grad.isfinite().all()
        assert image.grad.isfinite().all()


def test_half_precision_under_autocast_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    text, image = (torch.randn(5, 64, generator=generator) for _ in range(2))
    labels = torch.arange(5)
    exact = inter_dispersion(text).item(), intra_dispersion(image, text, labels).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = inter_dispersion(text.half()), intra_dispersion(image.half(), text, labels)
    assert {value.dtype for value in found} == {torch.float32}
    assert [value.item() for value in found] == pytest.approx(exact, rel=2e-3)
