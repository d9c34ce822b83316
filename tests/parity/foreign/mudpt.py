"""MuDPT: both towers exchange deep prompts; the image encoder returns prompts for the text beside its features."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.parity.foreign_cases import ByHand, Case, Repository


def _stand_ins(code: Path) -> None:
    module = import_module("clip.clip")
    package = vars(sys.modules["clip"])
    package.update(_MODELS=module._MODELS, build_model=module.build_model, _download=lambda url: module._download(url))


_REPOSITORY = Repository(
    "CPT_RELEASED_MUDPT", stand_ins=_stand_ins, lacks="three names that its `clip` has but does not export"
)
_PAIR: dict[str, Any] = {
    "hook": "features=lambda step: (step.text[0], step.image[0][0])",
    "by_hand": ByHand(features=lambda texts, images: (texts[0], images[0][0])),
}
CASES = tuple(
    Case(_REPOSITORY, name, "logits",
         {f"TRAINER.{name.upper()}.PREC": "fp32", f"TRAINER.{name.upper()}.DEEP_PROMPT_DEPTH": 2}, **_PAIR)
    for name in ("MuDPT", "UMuDPT")
)  # fmt: skip
