"""Prompts that the released code trained and Dassl saved give the same logits in our trainers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin.errors import CheckpointError
from tests.parity.conftest import released, run_released
from tests.parity.ours import build
from tests.parity.problems import OPTIM, Problem, batches, relative_error

SMALL = {"text_width": 128, "vision_width": 64, "text_layers": 3, "vision_layers": 3, "embed_dim": 32}
WORDS = {"CTX_INIT": "a photo of a"}
DEEP = {**WORDS, "N_CTX_VISION": 4, "N_CTX_TEXT": 4, "PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3}
COOP = {**WORDS, "N_CTX": 4, "CSC": False, "CLASS_TOKEN_POSITION": "end"}
SRC = {**DEEP, "TEXT_LOSS_WEIGHT": 25, "IMAGE_LOSS_WEIGHT": 10, "GPA_MEAN": 3, "GPA_STD": 1}
REPOSITORIES = {
    "COOP": ("trainers.coop", "trainers.cocoop"),
    "MAPLE": ("trainers.maple",),
    "PROMPTSRC": ("trainers.promptsrc", "trainers.independentVL"),
}
CASES = {
    "COOP": [
        Problem("CoOp", "CoOp", "COOP", COOP, sizes=SMALL),
        Problem("CoOp, contexts of classes", "CoOp", "COOP", {**COOP, "CTX_INIT": "", "CSC": True}, sizes=SMALL),
        Problem("CoCoOp", "CoCoOp", "COCOOP", {**WORDS, "N_CTX": 4}, sizes=SMALL),
    ],
    "MAPLE": [
        Problem("MaPLe", "MaPLe", "MAPLE", {**WORDS, "N_CTX": 2, "PROMPT_DEPTH": 3},
                sizes={**SMALL, "text_width": 512, "vision_width": 768, "embed_dim": 64, "patch": 16})
    ],
    "PROMPTSRC": [
        Problem("PromptSRC", "PromptSRC", "PROMPTSRC", SRC, sizes=SMALL),
        Problem("IVLP", "IVLP", "IVLP", DEEP, sizes=SMALL),
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=REPOSITORIES)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    name = request.param
    repository, dassl = released(f"CPT_RELEASED_{name}", "CPT_RELEASED_DASSL")
    folder = tmp_path_factory.mktemp(name)
    modules = list(REPOSITORIES[name])
    results = run_released(repository, dassl, folder, modules, CASES[name], **{"save to": str(folder)})
    return {"repository": name, **results}


def test_released_prompts_give_the_released_logits(theirs: dict[str, Any]) -> None:
    for case in CASES[theirs["repository"]]:
        result = theirs[case.name]
        (path,) = Path(result["folder"]).rglob("model.pth.tar-*")
        with pytest.raises(pickle.UnpicklingError, match="CosineAnnealingLR"):
            torch.load(path)
        trainer = build(case, theirs["files"][case.name])
        image = batches(torch.float32)[0][0]
        with torch.no_grad():
            before = trainer.model_inference(image)
            trainer.load_model(result["folder"], epoch=OPTIM["MAX_EPOCH"])
            error = relative_error(trainer.model_inference(image), result["trained logits"])
        print(f"{case.name}: logits {error:.1e}, before loading {relative_error(before, result['trained logits']):.1e}")
        assert error <= 1e-5
        assert relative_error(before, result["trained logits"]) > 1e-3


def test_released_prompts_of_other_weights_are_refused(theirs: dict[str, Any], tmp_path: Path) -> None:
    for case in CASES[theirs["repository"]]:
        state = torch.load(theirs["files"][case.name])
        generator = torch.Generator().manual_seed(1)
        for value in state.values():
            if value.ndim > 1:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
        torch.save(state, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="other CLIP weights than those here"):
            build(case, str(tmp_path / "other.pt")).load_model(theirs[case.name]["folder"], epoch=OPTIM["MAX_EPOCH"])
