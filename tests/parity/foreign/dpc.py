"""DPC: CoOp on its own copy of Dassl, and the second stage on rebuilt pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.parity.foreign_cases import COOP, SHOTS, ByHand, Case, Repository
from tests.parity.foreign_stubs import stub, stub_templates
from tests.runner.released import CLASSES

_LARGE = {"resolution": 224, "patch": 112}
_PLAIN = {"trainer": "CoOp", "vision_depth": 0, "language_depth": 0, "vision_ctx": 0, "language_ctx": 0}


def _stand_ins(code: Path) -> None:
    from dassl.engine import TrainerX
    from dassl.optim import build_optimizer

    stub_templates(code)
    stub("trainers.base", TrainerX=TrainerX)
    stub("trainers.optim", build_optimizer=lambda model, cfg: (build_optimizer(model, cfg), None))
    import_module("clip.clip").build_model.__defaults__ = (_PLAIN,)


def _pictures(folder: Path, case: Case) -> None:
    images = {name: [label, [f"{name}/train{i}.png" for i in range(SHOTS)]] for label, name in enumerate(CLASSES)}
    (folder / "pictures.json").write_text(json.dumps({"train": [images], "val": [images]}))


def _first_stage(build: Callable[..., Any], folder: Path) -> None:
    from tests.parity.foreign_runs import steps

    first = build(**{"TRAINER.NAME": "CoOp"})
    steps(first, 1)
    first.save_model(0, str(folder / "stage-one"))


def _options(folder: Path) -> dict[str, Any]:
    return {
        **COOP,
        "SPLE.BACK_CKPT_PATH": str(folder / "stage-one"),
        "SPLE.PIC_LIB": str(folder / "pictures.json"),
    }


def _second_options(folder: Path) -> dict[str, Any]:
    return {
        **_options(folder),
        "DATASET.SUBSAMPLE_CLASSES": "all",
        "SPLE.INFER_TOPK": 3,
        "SPLE.BACK_CKPT_EPOCH": 1,
        "SPLE.STACK.MODE": "converse",
        "SPLE.STACK.WEIGHT": 0.2,
    }


_REPOSITORY = Repository(
    "CPT_RELEASED_DPC", dassl="Dassl.pytorch", stand_ins=_stand_ins,
    lacks="`trainers.base`, `trainers.optim`, `trainers.imagenet_templates`; a default for an argument that it forgets",
)  # fmt: skip
CASES = (
    Case(_REPOSITORY, "CoOp", "logits", _options, files=_pictures, **_LARGE),
    Case(_REPOSITORY, "StackSPLE_CoOp", "two logits of rebuilt pairs", _second_options, files=_pictures,
         before=_first_stage, by_hand=ByHand(parser="parse_sple_batch_train"), **_LARGE),
)  # fmt: skip
