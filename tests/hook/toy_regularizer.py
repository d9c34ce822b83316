"""A regularizer without clustering, for tests of the mechanism alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.hook import CPTHook
from cpt_plugin.regularizers import FeatureBatch, Regularizer


class ToyRegularizer(Regularizer):
    """Spread of the classes, alignment of images with their class, distance from the frozen text."""

    name: ClassVar[str] = "toy"
    paper: ClassVar[str] = ""
    description: ClassVar[str] = "test double"
    config_node: ClassVar[str] = "TOY"

    def __init__(self, weight: float = 0.7, text_only: bool = False) -> None:
        self.weight = weight
        self.text_only = text_only
        self.frozen_text: Tensor | None = None
        self.class_names: list[str] = []
        self.batches: list[FeatureBatch] = []
        self.autocast: list[bool] = []

    @property
    def active(self) -> bool:
        return self.weight != 0

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        self.frozen_text, self.class_names = frozen_text, list(class_names)

    def digest(self) -> str:
        return "-".join(self.class_names)

    def compute(self, batch: FeatureBatch) -> dict[str, Tensor]:
        assert self.frozen_text is not None
        self.batches.append(FeatureBatch(batch.text.detach(), batch.image.detach(), batch.labels))
        self.autocast.append(torch.is_autocast_enabled(batch.image.device.type))
        text, image = F.normalize(batch.text, dim=-1), F.normalize(batch.image, dim=-1)
        if self.text_only:
            return {"drift": self.weight * (batch.text - self.frozen_text).square().mean()}
        own = text[batch.labels] if text.dim() == 2 else text[torch.arange(len(image)), batch.labels]
        return {
            "spread": self.weight * (text @ text.mT).square().mean(),
            "align": 2 * self.weight * (1 - (own * image).sum(-1)).mean(),
            "drift": 0.5 * self.weight * (batch.text - self.frozen_text).square().mean(),
        }

    def describe(self) -> list[str]:
        return [f"toy: {len(self.class_names)} classes"]


def toy_hook(**options: Any) -> CPTHook:
    """A hook with this regularizer alone."""
    return CPTHook(regularizers=[ToyRegularizer()], **options)
