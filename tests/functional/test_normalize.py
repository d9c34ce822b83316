"""Unit length with a gradient of its own, and the working precision."""

from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given

from cpt_plugin import loss
from cpt_plugin.functional import _normalize, convergence, etf, rotation
from tests.functional.problems import LOSS_PROPERTY, problems


@given(problems())
@LOSS_PROPERTY
def test_unit_equals_torch_normalize_in_value_and_gradient(problem: dict[str, torch.Tensor]) -> None:
    direction = problem["frozen"]
    ours, theirs = (problem["text"].clone().requires_grad_() for _ in range(2))
    value, expected = _normalize.unit(ours, torch.float64), torch.nn.functional.normalize(theirs, dim=-1)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    (value * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_zero_vector_stays_zero_with_a_bounded_gradient() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    value = _normalize.unit(zero, torch.float32)
    (value * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(value, torch.zeros(2, 3))
    assert zero.grad.abs().max() <= 3.0


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.float16,), torch.float32),
        ((torch.bfloat16, torch.bfloat16), torch.float32),
        ((torch.float16, torch.float32), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
    ],
)
def test_working_dtype_is_the_widest_and_at_least_float32(
    dtypes: tuple[torch.dtype, ...], expected: torch.dtype
) -> None:
    assert _normalize.working_dtype(*[torch.empty(1, dtype=dtype) for dtype in dtypes]) == expected


def test_full_precision_switches_autocast_off_inside_only() -> None:
    square = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with _normalize.full_precision(square):
            assert (square @ square).dtype == torch.float32
        assert (square @ square).dtype == torch.bfloat16


@pytest.mark.parametrize("module", [etf, convergence, rotation, loss], ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_true(module: object) -> None:
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0
