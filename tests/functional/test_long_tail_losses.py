"""Long-tail losses: the formulas in plain Python, identities between them, extreme counts, derivatives, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional import (
    balanced_softmax,
    class_balanced,
    focal,
    ldam,
    logit_adjustment,
    posthoc_adjustment,
)
from cpt_plugin.functional.long_tail_losses import effective_number_weights, ldam_margins
from tests.functional.problems import LOSS_PROPERTY

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "la": logit_adjustment,
    "la half": lambda z, y, n: logit_adjustment(z, y, n, 0.5),
    "bs": balanced_softmax,
    "focal": lambda z, y, n: focal(z, y),
    "focal root": lambda z, y, n: focal(z, y, 0.5),
    "cb": class_balanced,
    "ldam": lambda z, y, n: ldam(z, y, n, 0.5, 30.0),
    "ldam-drw": lambda z, y, n: ldam(z, y, n, 0.5, 30.0, 0.999),
}


@st.composite
def problems(draw: st.DrawFn, equal: bool = False) -> dict[str, Any]:
    """Float64 logits of any size, labels, counts among which are 0, 1 and a million, and a relabelling."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, batch = draw(st.integers(2, 8)), draw(st.integers(1, 6))
    count = st.sampled_from([0, 1, 2, 7, 100, 10**6])
    counts = [draw(st.integers(1, 10**6))] * classes if equal else [draw(count) for _ in range(classes)]
    return {
        "logits": torch.tensor(rng.normal(size=(batch, classes)) * 10.0 ** draw(st.integers(-2, 2))),
        "labels": torch.tensor(rng.integers(0, classes, size=batch)),
        "counts": torch.tensor(counts),
        "order": torch.tensor(rng.permutation(classes)),
    }


def parts(problem: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return problem["logits"], problem["labels"], problem["counts"]


# -- the formulas, number by number ----------------------------------------------------------------------------------


def nll(row: list[float], label: int) -> float:
    top = max(row)
    return top + math.log(math.fsum(math.exp(z - top) for z in row)) - row[label]


def by_hand(name: str, problem: dict[str, Any]) -> float:
    rows, labels = problem["logits"].tolist(), problem["labels"].tolist()
    n = [max(c, 1) for c in problem["counts"].tolist()]
    present = [c for c in problem["counts"].tolist() if c > 0] or n

    def effective(beta: float) -> list[float]:
        def weight(c: int) -> float:
            return 1.0 / math.fsum(beta**i for i in range(c)) if c <= 100 else (1 - beta) / (1 - beta**c)

        mean = sum(map(weight, present)) / len(present)
        return [weight(c) / mean for c in n]

    terms = []
    for row, y in zip(rows, labels, strict=True):
        if name.startswith("la"):
            tau = 0.5 if "half" in name else 1.0
            terms.append(nll([z + tau * math.log(c / sum(n)) for z, c in zip(row, n, strict=True)], y))
        elif name == "bs":
            top = max(z + math.log(c) for z, c in zip(row, n, strict=True))
            total = math.fsum(c * math.exp(z - top) for z, c in zip(row, n, strict=True))
            terms.append(math.log(total) - (row[y] - top) - math.log(n[y]))
        elif name.startswith("focal"):
            top = max(row)
            exponentials = [math.exp(z - top) for z in row]
            missed = math.fsum(e for k, e in enumerate(exponentials) if k != y) / math.fsum(exponentials)
            terms.append(missed ** (0.5 if "root" in name else 2.0) * nll(row, y))
        elif name == "cb":
            terms.append(effective(0.9999)[y] * nll(row, y))
        else:
            margin = 0.5 * (n[y] ** -0.25) / max(c**-0.25 for c in n)
            weight = effective(0.999)[y] if "drw" in name else 1.0
            terms.append(weight * nll([z - 30 * margin * (k == y) for k, z in enumerate(row)], y))
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize("name", LOSSES)
def test_formula(name: str) -> None:
    @given(problems())
    @LOSS_PROPERTY
    def check(problem: dict[str, Any]) -> None:
        value = LOSSES[name](*parts(problem))
        weighted = name in ("cb", "ldam-drw") and not problem["counts"].all()
        weight = 1e4 if weighted else 1.0  # of an unseen class, at most: it multiplies the rounding
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(by_hand(name, problem), rel=1e-9, abs=max(1e-12, 1e-14 * weight))
        single = LOSSES[name](problem["logits"].float(), problem["labels"], problem["counts"])
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5 * weight)

    check()


# -- identities ------------------------------------------------------------------------------------------------------

IDENTITIES: dict[str, tuple[Loss, Loss]] = {
    "balanced softmax is logit adjustment at 1": (balanced_softmax, lambda z, y, n: logit_adjustment(z, y, n, 1.0)),
    "logit adjustment at 0": (lambda z, y, n: logit_adjustment(z, y, n, 0.0), lambda z, y, n: F.cross_entropy(z, y)),
    "focal at 0": (lambda z, y, n: focal(z, y, 0.0), lambda z, y, n: F.cross_entropy(z, y)),
    "class-balanced at 0": (lambda z, y, n: class_balanced(z, y, n, 0.0), lambda z, y, n: F.cross_entropy(z, y)),
    "LDAM at 0": (lambda z, y, n: ldam(z, y, n, 0.0, 30.0), lambda z, y, n: F.cross_entropy(z, y)),
}
ON_BALANCED_DATA = {"la": logit_adjustment, "bs": balanced_softmax, "cb": class_balanced}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity(name: str) -> None:
    @given(problems())
    @LOSS_PROPERTY
    def check(problem: dict[str, Any]) -> None:
        one, other = (loss(*parts(problem)) for loss in IDENTITIES[name])
        assert one.item() == pytest.approx(other.item(), rel=1e-9, abs=1e-12)

    check()


@pytest.mark.parametrize("name", ON_BALANCED_DATA)
def test_on_balanced_data_it_is_the_cross_entropy(name: str) -> None:
    @given(problems(equal=True))
    @LOSS_PROPERTY
    def check(problem: dict[str, Any]) -> None:
        expected = F.cross_entropy(problem["logits"], problem["labels"]).item()
        assert ON_BALANCED_DATA[name](*parts(problem)).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)

    check()


@pytest.mark.parametrize("name", LOSSES)
def test_relabelling_the_classes_changes_nothing(name: str) -> None:
    @given(problems())
    @LOSS_PROPERTY
    def check(problem: dict[str, Any]) -> None:
        logits, labels, counts = parts(problem)
        order = problem["order"]
        value = LOSSES[name](logits[:, order], torch.argsort(order)[labels], counts[order])
        assert value.item() == pytest.approx(LOSSES[name](logits, labels, counts).item(), rel=1e-9, abs=1e-12)

    check()


def test_class_balanced_weights_between_none_and_inverse_frequency() -> None:
    counts = torch.tensor([1000, 10, 1])
    small = effective_number_weights(counts, 1e-9)
    assert torch.allclose(small, torch.ones(3, dtype=torch.float64), atol=1e-6)
    inverse = 1 / counts.double()
    large = effective_number_weights(counts, 1 - 1e-12)
    torch.testing.assert_close(large, inverse / inverse.mean(), rtol=1e-3, atol=0)
    assert effective_number_weights(torch.tensor([0, 4, 9])).tolist()[1:] == pytest.approx(
        effective_number_weights(torch.tensor([4, 9])).tolist()
    )


def test_margins_of_ldam() -> None:
    assert ldam_margins(torch.tensor([16, 1]), 0.5).tolist() == pytest.approx([0.25, 0.5])


def test_posthoc_adjustment_undoes_the_prior() -> None:
    """A sample that the classes explain equally well goes to the rarest class; adjusting by 0 changes no bit."""
    counts = torch.tensor([100, 10, 1])
    learned = torch.tensor([[0.3, -1.0, 2.0]]) + counts.log()
    adjusted = posthoc_adjustment(learned, counts)
    torch.testing.assert_close(adjusted - adjusted.mean(), torch.tensor([[0.3, -1.0, 2.0]]) - 1.3 / 3)
    assert torch.equal(posthoc_adjustment(learned, counts, 0.0), learned)
    assert posthoc_adjustment(torch.zeros(2, 3), torch.tensor([0, 1, 10**6])).isfinite().all()


# -- extremes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 1, 10**6], [1, 1, 1], [10**6, 10**6, 0], [0.5, 1e-9, 3.0]])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite(name: str, counts: list[float], size: float, dtype: torch.dtype) -> None:
    logits = (size * torch.tensor([[1.0, 0.0, -1.0]] * 3)).to(dtype).requires_grad_()
    value = LOSSES[name](logits, torch.tensor([0, 1, 2]), torch.tensor(counts))
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(name: str) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels, counts = torch.tensor([0, 3, 3, 1, 2]), torch.tensor([100, 0, 1, 7])
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, labels, counts), (logits,))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_under_autocast_is_computed_in_float32(name: str) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).half()
    labels, counts = torch.tensor([0, 3, 3, 1, 2]), torch.tensor([100, 0, 1, 7])
    exact = LOSSES[name](logits.float(), labels, counts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LOSSES[name](logits, labels, counts)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_refusals() -> None:
    z, y, n = torch.zeros(2, 3), torch.tensor([0, 2]), torch.tensor([1, 2, 3])
    for call, error, message in (
        (lambda: logit_adjustment(z, y, n[:2]), FeatureError, "one entry for each of 3 classes"),
        (lambda: logit_adjustment(z, y, n - 2), FeatureError, "counts must be finite and >= 0"),
        (lambda: logit_adjustment(z, y, n, math.nan), ConfigError, "tau must be a finite number, got nan"),
        (lambda: balanced_softmax(z, torch.tensor([0, 3]), n), FeatureError, r"label 3 is outside 0\.\.2"),
        (lambda: balanced_softmax(z, y[:1], n), FeatureError, r"labels \(1,\) must have one entry a row of logits"),
        (lambda: balanced_softmax(z[0], y, n), FeatureError, r"logits must be a floating-point tensor \(B, K\)"),
        (lambda: balanced_softmax(z, y, 3), FeatureError, r"counts must be \(K,\), a number for each class, got int"),
        (lambda: focal(z, y, -1.0), ConfigError, "gamma must be a finite number >= 0"),
        (lambda: class_balanced(z, y, n, 1.0), ConfigError, "beta must be a finite number >= 0 and < 1"),
        (lambda: ldam(z, y, n, -0.1), ConfigError, "max_margin must be a finite number >= 0"),
        (lambda: posthoc_adjustment(z, n.to("meta")), FeatureError, "counts is on meta"),
    ):
        with pytest.raises(error, match=message):
            call()
