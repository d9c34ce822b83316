"""LAMM: learned class tokens; the text encoder is called a second time, with the plain class tokens."""

from __future__ import annotations

import types
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.parity.foreign_cases import COOP, DEEP, MAPLE, SHOTS, ByHand, Case, Repository


def _stand_ins(code: Path) -> None:
    flags = {"eval_only": False, "triplet_loss": True, "origin_clip": False, "random_init": False}
    import_module("train").args = types.SimpleNamespace(shots=SHOTS, **flags)


_REPOSITORY = Repository("CPT_RELEASED_LAMM", stand_ins=_stand_ins, lacks="its command line, which it reads globally")
_FIRST: dict[str, Any] = {
    "hook": "features=lambda step: (step.text[0], step.image[0])",
    "by_hand": ByHand(features=lambda texts, images: (texts[0], images[0])),
}
CASES = (
    Case(_REPOSITORY, "CoOp", "loss", COOP, **_FIRST),
    Case(_REPOSITORY, "MaPLe", "loss", {**DEEP, "DATASET.SUBSAMPLE_CLASSES": "base"}, sizes=MAPLE, **_FIRST),
)
