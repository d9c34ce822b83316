"""Our PromptSRC beside the released one: losses, gradients, and four epochs with Gaussian prompt aggregation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.conftest import released, run_released
from tests.parity.problems import Problem
from tests.parity.verdicts import check_forward_and_gradients, check_initial, check_own_loss, check_training
from trainers.promptsrc import TEMPLATES

SIZES = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 3, "embed_dim": 32}
WEIGHTS = {"TEXT_LOSS_WEIGHT": 25, "IMAGE_LOSS_WEIGHT": 10, "GPA_MEAN": 3, "GPA_STD": 1}
TOKENS = {"N_CTX_VISION": 4, "N_CTX_TEXT": 4, "CTX_INIT": "a photo of a"}
SETTINGS = {
    "depth 3 and 3": {**WEIGHTS, **TOKENS, "PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3},
    "depth 1 and 2": {**WEIGHTS, **TOKENS, "PROMPT_DEPTH_VISION": 1, "PROMPT_DEPTH_TEXT": 2, "GPA_MEAN": 15},
    "three random tokens": {
        **WEIGHTS, "N_CTX_VISION": 2, "N_CTX_TEXT": 3, "CTX_INIT": "",
        "PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 3, "GPA_STD": 2,
    },
}  # fmt: skip
CASES = [
    Problem(f"{name}, {dtype}", "PromptSRC", "PROMPTSRC", options, dtype, SIZES)
    for name, options in SETTINGS.items()
    for dtype in ("float32", "float64")
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository, dassl = released("CPT_RELEASED_PROMPTSRC", "CPT_RELEASED_DASSL")
    modules = ["trainers.promptsrc"]
    return run_released(repository, dassl, tmp_path_factory.mktemp("promptsrc"), modules, CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_promptsrc(case: Problem, theirs: dict[str, Any], compare: Any) -> None:
    ours, released_run = compare(case, theirs), theirs[case.name]
    check_initial(ours, released_run, words=bool(case.options["CTX_INIT"]))
    check_forward_and_gradients(case, ours, released_run)
    check_own_loss(case, ours, released_run)
    check_training(case, ours, released_run)


def test_templates(theirs: dict[str, Any]) -> None:
    """The same sentences; their order is another, which rounding alone can tell."""
    assert sorted(TEMPLATES["published"]) == sorted(theirs["teacher templates"])
