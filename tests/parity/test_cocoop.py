"""Our CoCoOp beside the released one: same weights, prompts and batches."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.conftest import released, run_released
from tests.parity.problems import Problem
from tests.parity.verdicts import check_forward_and_gradients, check_initial, check_training

SIZES = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 2, "embed_dim": 32}
SETTINGS = {
    "words": {"N_CTX": 4, "CTX_INIT": "a photo of a"},
    "five random vectors": {"N_CTX": 5, "CTX_INIT": ""},
}
CASES = [
    Problem(f"{name}, {dtype}", "CoCoOp", "COCOOP", options, dtype, SIZES)
    for name, options in SETTINGS.items()
    for dtype in ("float32", "float64")
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository, dassl = released("CPT_RELEASED_COOP", "CPT_RELEASED_DASSL")
    return run_released(repository, dassl, tmp_path_factory.mktemp("cocoop"), ["trainers.cocoop"], CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cocoop(case: Problem, theirs: dict[str, Any], compare: Any) -> None:
    ours, released_run = compare(case, theirs), theirs[case.name]
    check_initial(ours, released_run, words=bool(case.options["CTX_INIT"]))
    check_forward_and_gradients(case, ours, released_run)
    check_training(case, ours, released_run)
