"""Our IVLP beside the one released with MaPLe: same weights, prompts and batches."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.conftest import released, run_released
from tests.parity.problems import Problem
from tests.parity.verdicts import check_forward_and_gradients, check_initial, check_training

SIZES = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 3, "embed_dim": 32}
SETTINGS = {
    "2 + 2 tokens, depths 3 and 3": {"N_CTX_TEXT": 2, "N_CTX_VISION": 2, "CTX_INIT": "a photo of a",
                                     "PROMPT_DEPTH_TEXT": 3, "PROMPT_DEPTH_VISION": 3},
    "4 + 1 tokens, depths 2 and 1": {"N_CTX_TEXT": 4, "N_CTX_VISION": 1, "CTX_INIT": "a photo of a",
                                     "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 1},
    "random words, text only": {"N_CTX_TEXT": 3, "N_CTX_VISION": 2, "CTX_INIT": "",
                                "PROMPT_DEPTH_TEXT": 3, "PROMPT_DEPTH_VISION": 0},
}  # fmt: skip
CASES = [
    Problem(f"{name}, {dtype}", "IVLP", "IVLP", options, dtype, SIZES)
    for name, options in SETTINGS.items()
    for dtype in ("float32", "float64")
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository, dassl = released("CPT_RELEASED_MAPLE", "CPT_RELEASED_DASSL")
    return run_released(repository, dassl, tmp_path_factory.mktemp("ivlp"), ["trainers.independentVL"], CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ivlp(case: Problem, theirs: dict[str, Any], compare: Any) -> None:
    ours, released_run = compare(case, theirs), theirs[case.name]
    check_initial(ours, released_run, words=bool(case.options["CTX_INIT"]))
    check_forward_and_gradients(case, ours, released_run)
    check_training(case, ours, released_run)
