"""Rotation stabilization against loops, its bound and its dead zone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import rotation_stabilization
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems


@given(problems())
@LOSS_PROPERTY
def test_equals_the_loop_and_obeys_its_bound(problem: dict[str, torch.Tensor]) -> None:
    text, frozen = problem["text"], problem["frozen"]
    value = rotation_stabilization(text, frozen)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(oracles.rotation(text.tolist(), frozen.tolist()), abs=1e-12)
    distances = (torch.nn.functional.normalize(text) - torch.nn.functional.normalize(frozen)).norm(dim=1)
    assert value.item() <= math.sqrt(text.shape[1]) * distances.mean().item() + 1e-12
    text, frozen = text.float(), frozen.float()
    expected = oracles.rotation(text.tolist(), frozen.tolist())
    assert rotation_stabilization(text, frozen).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(problems())
@LOSS_PROPERTY
def test_unchanged_by_scaling_and_by_order_of_classes_and_dimensions(
    problem: dict[str, torch.Tensor],
) -> None:
    text, frozen, order = problem["text"], problem["frozen"], problem["classes"]
    value = rotation_stabilization(text, frozen)
    for changed in (
        rotation_stabilization(text[order] * 7, frozen[order] / 3),
        rotation_stabilization(text.flip(1), frozen.flip(1)),
        rotation_stabilization(-text, -frozen),
    ):
        torch.testing.assert_close(changed, value, rtol=1e-10, atol=1e-12)


@given(problems())
@LOSS_PROPERTY
def test_per_image_text_is_averaged_over_images(problem: dict[str, torch.Tensor]) -> None:
    text, frozen = problem["per_image"], problem["frozen"]
    expected = np.mean([oracles.rotation(one.tolist(), frozen.tolist()) for one in text])
    assert rotation_stabilization(text, frozen).item() == pytest.approx(expected, abs=1e-12)


def test_sees_the_rotation_that_the_etf_term_ignores() -> None:
    text = torch.tensor(oracles.simplex(4, 4))
    turn = torch.tensor(np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0])
    assert rotation_stabilization(text, text).item() == 0.0
    assert rotation_stabilization(text @ turn, text).item() > 0.1


def test_first_and_second_derivatives_away_from_kinks() -> None:
    rng = np.random.default_rng(1)
    frozen = torch.tensor(rng.normal(size=(5, 4)))
    for shape in ((5, 4), (3, 5, 4)):
        text = (frozen + torch.tensor(rng.normal(size=shape))).requires_grad_()
        assert torch.autograd.gradcheck(lambda g: rotation_stabilization(g, frozen), (text,))
        assert torch.autograd.gradgradcheck(lambda g: rotation_stabilization(g, frozen), (text,))


def test_derivative_is_zero_exactly_inside_the_dead_zone_and_the_value_is_kept() -> None:
    """Unit vectors a tiny rotation apart: components 0 and 1 differ by about size, the third not."""
    for size, dead in ((0.9e-6, True), (1.1e-6, False)):
        frozen = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64) / math.sqrt(2)
        text = (frozen + size * torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)).requires_grad_()
        value = rotation_stabilization(text, frozen)
        value.backward()
        assert value.item() == pytest.approx(2 * size, rel=1e-5)
        if dead:
            assert torch.equal(text.grad, torch.zeros_like(text))
        else:
            torch.testing.assert_close(
                text.grad, torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64), rtol=0, atol=1e-5
            )


def test_dead_zone_works_component_by_component() -> None:
    """Component 1 lies inside the zone; 0 and 2 still pull on it through the normalization."""
    frozen = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    text = torch.tensor([[1.0, 5e-7, 0.3]], dtype=torch.float64, requires_grad=True)
    rotation_stabilization(text, frozen).backward()
    unit = text.detach() / text.detach().norm()
    signs = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    expected = (signs - unit * (unit * signs).sum()) / text.detach().norm()
    torch.testing.assert_close(text.grad, expected, rtol=1e-12, atol=1e-12)


def test_prompts_at_the_template_get_no_gradient_from_rounding_noise() -> None:
    frozen = torch.randn(50, 512, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50, 512, generator=torch.Generator().manual_seed(1))
    text = (frozen * (1 + 1e-7 * noise)).requires_grad_()
    value = rotation_stabilization(text, frozen)
    value.backward()
    assert 0 < value.item() < 1e-3
    assert text.grad.abs().max() == 0


def test_frozen_features_receive_no_gradient() -> None:
    text, frozen = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    rotation_stabilization(text, frozen).backward()
    assert text.grad is not None
    assert frozen.grad is None


def test_zero_vectors_give_finite_values_and_gradients() -> None:
    text = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = rotation_stabilization(text, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    value.backward()
    assert value.item() == pytest.approx((1.4 + 1.0) / 2)
    assert torch.isfinite(text.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(4)
    text, frozen = (torch.tensor(rng.normal(size=(6, 32))).to(dtype) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = rotation_stabilization(text, frozen)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(oracles.rotation(text.tolist(), frozen.tolist()), rel=1e-5)


def test_never_waits_for_the_device() -> None:
    """Tensors on the meta device have no values, so any read of a value by the host would raise."""
    text = torch.empty(4, 3, device="meta", requires_grad=True)
    rotation_stabilization(text, torch.empty(4, 3, device="meta")).backward()
    assert text.grad.shape == (4, 3)


@pytest.mark.parametrize(
    ("text", "frozen", "message"),
    [
        (torch.ones(3), torch.ones(3), r"text must have shape \(K, d\) or \(B, K, d\), got \(3,\)"),
        (torch.ones(3, 2), torch.ones(4, 2), r"frozen_text \(4, 2\) does not match text \(3, 2\)"),
        (torch.ones(3, 2), torch.ones(3, 5), r"frozen_text \(3, 5\) does not match text \(3, 2\)"),
        (torch.ones(2, 3, 2), torch.ones(2, 3, 2), r"frozen_text must have shape \(K, d\), got \(2, 3, 2\)"),
        (torch.ones(3, 2), torch.ones(3, 2).long(), "frozen_text must hold floating-point features"),
        (torch.ones(3, 2), torch.ones(3, 2, device="meta"), "frozen_text is on meta, text on cpu"),
    ],
)
def test_refuses_what_does_not_fit(text: torch.Tensor, frozen: torch.Tensor, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        rotation_stabilization(text, frozen)
