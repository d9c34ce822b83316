"""How close is close enough, and that the comparison could have failed."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.ours import OurRun
from tests.parity.problems import STEPS, Problem, relative_error

FORWARD = {"float32": 1e-5, "float64": 1e-12}
GRADIENT = {"float32": 1e-4, "float64": 1e-10}
TRAINED = {"float32": 1e-4, "float64": 1e-9}


def check_initial(ours: OurRun, theirs: dict[str, Any], words: bool) -> None:
    """Same names and shapes of parameters; a context that starts from words starts from the same ones."""
    shapes = {name: value.shape for name, value in theirs["initial"].items()}
    assert {name: value.shape for name, value in ours.initial.items()} == shapes
    if words:
        assert torch.equal(ours.initial["ctx"], theirs["initial"]["ctx"].to(ours.initial["ctx"].dtype))


def check_forward_and_gradients(case: Problem, ours: OurRun, theirs: dict[str, Any]) -> None:
    """Logits and every gradient agree; the logits tell classes apart and no gradient is zero."""
    assert ours.logits is not None
    assert theirs["logits"].dtype == case.torch_dtype == ours.logits.dtype
    logits = relative_error(ours.logits, theirs["logits"])
    gradients = {name: relative_error(ours.gradients[name], g) for name, g in theirs["gradients"].items()}
    print(f"logits {logits:.1e}, gradients {max(gradients.values()):.1e}")
    assert logits <= FORWARD[case.dtype]
    assert max(gradients.values()) <= GRADIENT[case.dtype], gradients
    assert theirs["logits"].std(dim=1).min() > 1e-2
    assert all(g.abs().max() > 1e-8 for g in theirs["gradients"].values())


def check_own_loss(case: Problem, ours: OurRun, theirs: dict[str, Any]) -> None:
    """Every term of the method's own loss, their sum, and its gradient agree; no term is zero."""
    assert ours.terms.keys() == theirs["terms"].keys()
    terms = {name: abs(ours.terms[name] / value - 1) for name, value in theirs["terms"].items()}
    gradients = {name: relative_error(ours.own_gradients[name], g) for name, g in theirs["own gradients"].items()}
    print(f"terms {max(terms.values()):.1e}, gradients of their sum {max(gradients.values()):.1e}")
    assert max(terms.values()) <= FORWARD[case.dtype], terms
    assert max(gradients.values()) <= GRADIENT[case.dtype], gradients
    assert min(theirs["terms"].values()) > 1e-3


def check_training(case: Problem, ours: OurRun, theirs: dict[str, Any]) -> None:
    """20 steps end at the same prompts, by the same rates and losses, and the prompts have moved by far more."""
    assert ours.rates == theirs["rates"]
    assert len(set(ours.rates)) == 4
    errors = {name: relative_error(ours.trained[name], value) for name, value in theirs["trained"].items()}
    moved = {name: relative_error(ours.start[name], value) for name, value in theirs["trained"].items()}
    print(f"after {STEPS} steps: prompts {max(errors.values()):.1e}, having moved by {max(moved.values()):.1e}")
    assert max(errors.values()) <= TRAINED[case.dtype], errors
    assert max(moved.values()) > 100 * TRAINED["float32"], moved
