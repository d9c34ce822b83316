"""Class convergence against loops, closed forms and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import _checks, class_convergence
from tests.functional import oracles
from tests.functional.problems import LOSS_PROPERTY, problems


@given(problems())
@LOSS_PROPERTY
def test_equals_the_loop(problem: dict[str, torch.Tensor]) -> None:
    image, text, labels = problem["image"], problem["text"], problem["labels"]
    value = class_convergence(image, text, labels)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(
        oracles.convergence(image.tolist(), text.tolist(), labels.tolist()), abs=1e-12
    )
    assert 0 <= value.item() <= 4 + 1e-12
    image, text = image.float(), text.float()
    expected = oracles.convergence(image.tolist(), text.tolist(), labels.tolist())
    assert class_convergence(image, text, labels).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(problems())
@LOSS_PROPERTY
def test_unchanged_by_rotation_scaling_and_order_of_samples_and_classes(
    problem: dict[str, torch.Tensor],
) -> None:
    image, text, labels, order = (problem[name] for name in ("image", "text", "labels", "classes"))
    value = class_convergence(image, text, labels)
    torch.testing.assert_close(
        class_convergence(
            3 * image.flip(0) @ problem["rotation"], text @ problem["rotation"], labels.flip(0)
        ),
        value,
        rtol=1e-10,
        atol=1e-12,
    )
    new_number = torch.argsort(order)
    torch.testing.assert_close(
        class_convergence(image, text[order], new_number[labels]), value, rtol=1e-12, atol=1e-12
    )


@given(problems(), st.integers(2, 5))
@LOSS_PROPERTY
def test_repeating_the_samples_of_one_class_changes_nothing(
    problem: dict[str, torch.Tensor], times: int
) -> None:
    image, text, labels = problem["image"], problem["text"], problem["labels"]
    rows = torch.cat(
        [torch.arange(len(labels)), *[torch.nonzero(labels == labels[0]).flatten()] * (times - 1)]
    )
    torch.testing.assert_close(
        class_convergence(image[rows], text, labels[rows]),
        class_convergence(image, text, labels),
        rtol=1e-12,
        atol=1e-12,
    )


@given(problems())
@LOSS_PROPERTY
def test_per_image_text_compares_each_image_with_its_own(problem: dict[str, torch.Tensor]) -> None:
    image, text, labels = problem["image"], problem["per_image"], problem["labels"]
    own = [text[i, label].tolist() for i, label in enumerate(labels)]
    per_class: dict[int, list[float]] = {}
    for i, label in enumerate(labels.tolist()):
        per_class.setdefault(label, []).append(oracles.convergence([image[i].tolist()], [own[i]], [0]))
    expected = np.mean([np.mean(values) for values in per_class.values()])
    assert class_convergence(image, text, labels).item() == pytest.approx(expected, abs=1e-12)
    shared = problem["text"].expand(len(image), -1, -1)
    torch.testing.assert_close(
        class_convergence(image, shared, labels), class_convergence(image, problem["text"], labels)
    )


def test_closed_forms() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    assert class_convergence(2 * axes, 5 * axes, torch.arange(3)).item() == 0.0
    assert class_convergence(-axes, axes, torch.arange(3)).item() == 4.0
    angle = 0.7
    image = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    assert class_convergence(image, axes, torch.tensor([0])).item() == pytest.approx(
        2 - 2 * math.cos(angle), abs=1e-15
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
def test_cosines_of_features_stored_in_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    """One sample a class: the loss is 2 - 2 cos, so half its error is the error of the cosine."""
    rng = np.random.default_rng(0)
    label = torch.tensor([0])
    for mixture in np.linspace(-1, 1, 200):
        text = rng.normal(size=(1, 512))
        image = mixture * text + (1 - abs(mixture)) * rng.normal(size=(1, 512))
        expected = oracles.convergence(image, text, [0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = class_convergence(torch.tensor(image).to(dtype), torch.tensor(text).to(dtype), label)
        assert value.dtype == torch.float32
        assert abs(value.item() - expected) / 2 <= tolerance


def test_first_and_second_derivatives() -> None:
    rng = np.random.default_rng(1)
    image = torch.tensor(rng.normal(size=(6, 4)), requires_grad=True)
    labels = torch.tensor([0, 2, 2, 4, 0, 2])
    for shape in ((5, 4), (6, 5, 4)):
        text = torch.tensor(rng.normal(size=shape), requires_grad=True)
        assert torch.autograd.gradcheck(lambda f, g: class_convergence(f, g, labels), (image, text))
        assert torch.autograd.gradgradcheck(lambda f, g: class_convergence(f, g, labels), (image, text))


def test_classes_absent_from_the_batch_get_no_gradient() -> None:
    text = torch.randn(4, 3, requires_grad=True)
    class_convergence(torch.randn(2, 3), text, torch.tensor([1, 1])).backward()
    assert text.grad[[0, 2, 3]].abs().max() == 0
    assert text.grad[1].abs().max() > 0


def test_zero_vectors_give_finite_values_and_gradients() -> None:
    image, text = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    value = class_convergence(image, text, torch.tensor([0, 1]))
    value.backward()
    assert value.item() == 0.0
    assert torch.isfinite(image.grad).all()
    assert torch.isfinite(text.grad).all()


@pytest.mark.parametrize("label", [7, 5, -1])
def test_names_a_label_out_of_range(label: int) -> None:
    with pytest.raises(FeatureError, match=rf"label {label} is outside 0\.\.4 \(K = 5"):
        class_convergence(torch.ones(3, 2), torch.ones(5, 2), torch.tensor([0, label, 1]))


def test_without_a_check_a_label_out_of_range_makes_the_loss_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens on an accelerator, where labels are not read by the host."""
    monkeypatch.setattr(_checks, "check_labels", lambda labels, num_classes: None)
    image, text = torch.randn(3, 2), torch.randn(5, 2)
    assert class_convergence(image, text, torch.tensor([0, 9, 1])).isnan()
    assert class_convergence(image, text, torch.tensor([0, -1, 1])).isnan()
    assert class_convergence(image, text, torch.tensor([0, 4, 1])).isfinite()


def test_never_waits_for_the_device() -> None:
    """Tensors on the meta device have no values, so any read of a value by the host would raise."""
    image = torch.empty(4, 3, device="meta", requires_grad=True)
    labels = torch.empty(4, dtype=torch.long, device="meta")
    for shape in ((6, 3), (4, 6, 3)):
        class_convergence(image, torch.empty(shape, device="meta", requires_grad=True), labels).backward()
        assert image.grad.shape == (4, 3)


@pytest.mark.parametrize(
    ("image", "text", "labels", "message"),
    [
        (
            torch.ones(2),
            torch.ones(3, 2),
            torch.zeros(2).long(),
            r"image must have shape \(B, d\), got \(2,\)",
        ),
        (torch.ones(0, 2), torch.ones(3, 2), torch.zeros(0).long(), r"image \(0, 2\) is empty"),
        (torch.ones(2, 4), torch.ones(3, 2), torch.zeros(2).long(), r"image \(2, 4\) and text \(3, 2\)"),
        (torch.ones(2, 4), torch.ones(5, 3, 4), torch.zeros(2).long(), r"text \(5, 3, 4\).*image \(2, 4\)"),
        (torch.ones(2, 4), torch.ones(3, 4), torch.zeros(3).long(), r"labels \(3,\).*image \(2, 4\)"),
        (torch.ones(2, 4), torch.ones(3, 4), torch.zeros(2), "labels must be integers, got torch.float32"),
        (
            torch.ones(2, 4),
            torch.ones(3, 4),
            torch.zeros(2).bool(),
            "labels must be integers, got torch.bool",
        ),
        (torch.ones(2, 4), torch.ones(3, 4), [0.0, 1.0], "labels must be integers, got list of float64"),
        (
            torch.ones(2, 4, device="meta"),
            torch.ones(3, 4),
            torch.zeros(2).long(),
            "image is on meta, text on cpu",
        ),
    ],
)
def test_refuses_what_does_not_fit(
    image: torch.Tensor, text: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(FeatureError, match=message):
        class_convergence(image, text, labels)


def test_accepts_every_integer_type_of_labels() -> None:
    image, text = torch.randn(3, 4), torch.randn(5, 4)
    expected = class_convergence(image, text, torch.tensor([4, 0, 4]))
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(class_convergence(image, text, torch.tensor([4, 0, 4], dtype=dtype)), expected)
