"""MuDPT: deep prompts of both towers; in one of the two the image encoder returns prompts beside its features."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.parity.foreign_cases import SMALL, ByHand, Case, Repository


def _stand_ins(code: Path) -> None:
    module = import_module("clip.clip")
    package = vars(sys.modules["clip"])
    package.update(_MODELS=module._MODELS, build_model=module.build_model, _download=lambda url: module._download(url))


def _options(node: str) -> dict[str, Any]:
    return {f"TRAINER.{node}.PREC": "fp32", f"TRAINER.{node}.DEEP_PROMPT_DEPTH": 2}


_REPOSITORY = Repository(
    "CPT_RELEASED_MUDPT", stand_ins=_stand_ins, lacks="three names that its `clip` has but does not export"
)
CASES = (
    Case(_REPOSITORY, "MuDPT", "logits", _options("MUDPT"), sizes={**SMALL, "embed_dim": 64},
         hook="features=lambda step: (step.text[0], step.image[0][0])",
         by_hand=ByHand(features=lambda texts, images: (texts[0], images[0][0]))),
    Case(_REPOSITORY, "UMuDPT", "logits", _options("UMUDPT")),
)  # fmt: skip
