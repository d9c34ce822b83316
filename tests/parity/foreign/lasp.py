"""LASP: two calls of the text encoder in a forward, class prompts first, then prompts for its text-to-text loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import LOSS_SCALE, SMALL, ByHand, Case, Repository


def _class_prompts(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    classes, _ = texts
    (image,) = images
    return classes, image


_OPTIONS = {
    "TRAINER.LASP.PREC": "fp32",
    "TRAINER.LASP.N_CTX": 4,
    "TRAINER.LASP.ENABLE_CORRECTION": True,
    "TRAINER.LASP.LASP_PROMPTS": ["a photo of a {}.", "a satellite photo of a {}."],
}
_REPOSITORY = Repository("CPT_RELEASED_LASP", trainers="prompting")
_COMMON: dict[str, Any] = {
    "returns": "loss",
    "hook": "features=lambda step: (step.text[0], step.image[0])",
    "sizes": {**SMALL, "embed_dim": 64},
}
CASES = (
    Case(_REPOSITORY, "LASP", options=_OPTIONS, by_hand=ByHand(features=_class_prompts), **_COMMON),
    Case(_REPOSITORY, "LASP", options={**_OPTIONS, "TRAINER.LASP.PREC": "amp"},
         by_hand=ByHand(features=_class_prompts, multiplier=LOSS_SCALE), variant="loss scaled, gradient clipped",
         **_COMMON),
)  # fmt: skip
