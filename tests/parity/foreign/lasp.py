"""LASP: two calls of the text encoder in a forward, class prompts first, then prompts for its text-to-text loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import SMALL, ByHand, Case, Repository


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
CASES = (
    Case(Repository("CPT_RELEASED_LASP", trainers="prompting"), "LASP", "loss", _OPTIONS,
         hook="features=lambda step: (step.text[0], step.image[0])", by_hand=ByHand(features=_class_prompts),
         sizes={**SMALL, "embed_dim": 64}),
)  # fmt: skip
