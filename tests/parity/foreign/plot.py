"""PLOT and PLOT++: several prompts a class in one call of the text encoder; several image vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import RESNET, ByHand, Case, Repository
from tests.runner.released import CLASSES


def _means(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    """PLOT++: the mean over the prompts of a class, and over the image's vectors."""
    (text,), (image,) = texts, images
    return sum(text.split(len(CLASSES))) / (len(text) // len(CLASSES)), image.sum(0) / len(image)


def _mean_and_pooled(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    """PLOT: the mean over the prompts of a class, and the image's pooled vector, before those of its places."""
    (text,), (image,) = texts, images
    return sum(text.split(len(CLASSES))) / (len(text) // len(CLASSES)), image[0]


_WIDE = {"text_width": 64, "vision_width": 768, "embed_dim": 32}
CASES = (
    Case(Repository("CPT_RELEASED_PLOT", folder="plot-coop"), "PLOT", "logits",
         {"TRAINER.PLOT.PREC": "fp32", "TRAINER.PLOT.N_CTX": 4, "TRAINER.PLOT.N": 3, "MODEL.BACKBONE.NAME": "RN50"},
         hook="features=lambda step: (step.text[0].unflatten(0, (3, -1)).mean(0), step.image[0][0])",
         by_hand=ByHand(features=_mean_and_pooled), sizes=RESNET, resolution=64),
    Case(Repository("CPT_RELEASED_PLOT", folder="plot-pp", arguments={"device": "cpu"}), "PLOTPP", "logits",
         {"TRAINER.PLOTPP.PREC": "fp32"},
         hook="features=lambda step: (step.text[0].unflatten(0, (4, -1)).mean(0), step.image[0].mean(0))",
         by_hand=ByHand(features=_means), sizes=_WIDE),
)  # fmt: skip
