"""Our shallow prompts with the regularizer dapt beside the released DAPT: same weights, prompts, batches, prototypes.

The released trainer adds its two losses to the cross-entropy itself; ours get them through CPTHook.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from cpt_plugin import CPTHook
from cpt_plugin.regularizers.dapt import DAPT
from tests.parity.conftest import released, run_released
from tests.parity.ours import OurRun, build, run_ours, train_steps, wide_losses
from tests.parity.problems import NAMES, Problem, batches, prototypes
from tests.parity.verdicts import check_forward_and_gradients, check_training

SIZES = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 3, "embed_dim": 32}
SETTINGS = {
    "both losses": {"TXT_BETA": 10.0, "VIS_BETA": 100.0, "TXT_RBF_T": 2.0},
    "another temperature, text only": {"TXT_BETA": 5.0, "VIS_BETA": 0.0, "TXT_RBF_T": 0.5},
}
MODEL = {"VIS_NUM_TOKENS": 4, "TXT_NUM_TOKENS": 3, "VIS_DROPOUT": 0.0, "PROTOTYPE_GEN": False}
CASES = [
    Problem(f"{name}, {dtype}", "DAPT", "DAPT", {**MODEL, **options}, dtype, SIZES)
    for name, options in SETTINGS.items()
    for dtype in ("float32", "float64")
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository, dassl = released("CPT_RELEASED_DAPT", "CPT_RELEASED_DASSL")
    results = run_released(repository, dassl, tmp_path_factory.mktemp("dapt"), ["trainers.dapt"], CASES)
    for case in CASES:
        for key in ("initial", "gradients", "trained"):
            tensors = results[case.name][key]
            tensors["vis_ctx"] = tensors["vis_ctx"][0]
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dapt(case: Problem, theirs: dict[str, Any]) -> None:
    weights, released_run = theirs["files"][case.name], theirs[case.name]
    ours_case = dataclasses.replace(
        case, trainer="ShallowVL", node="SHALLOW_VL", options={"N_CTX_TEXT": 3, "N_CTX_VISION": 4}
    )
    plain = run_ours(ours_case, weights)
    assert {n: v.shape for n, v in plain.initial.items()} == {n: v.shape for n, v in released_run["initial"].items()}
    check_forward_and_gradients(case, plain, released_run)

    regularized = hooked_run(case, ours_case, weights, plain.start)
    check_training(case, regularized, released_run)
    changed = max(float((plain.trained[n] - v).abs().max()) for n, v in regularized.trained.items())
    assert changed > 1e-3, "the losses of DAPT move the prompts"


def hooked_run(case: Problem, ours_case: Problem, weights: str, start: dict[str, torch.Tensor]) -> OurRun:
    options = case.options
    dapt = DAPT(beta_t=options["TXT_BETA"], beta_v=options["VIS_BETA"], temperature=options["TXT_RBF_T"])
    trainer = build(ours_case, weights)
    trainer.model.prompt_learner.load_state_dict(start)
    given = prototypes(SIZES["embed_dim"], case.torch_dtype)
    run = OurRun(start=start)
    with wide_losses() if case.dtype == "float64" else nullcontext():
        CPTHook(regularizers=[dapt], prototypes=given, class_names=NAMES).attach(trainer)
        train_steps(trainer, run, *batches(case.torch_dtype))
    return run
