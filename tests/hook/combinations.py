"""Trainers of every combination of output, loss scaling, accumulation and forwards, on CoOp-like toy models."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.regularizers import FeatureBatch
from tests.hook.toy_trainers import CLASSES, PIXELS, MaPLeModel, cosine_logits

OUTPUTS = ("logits", "loss", "tuple", "logits and loss")
BATCHES = (1, 2, CLASSES)


@dataclass(frozen=True)
class Combination:
    """``micro_steps`` divides the loss, ``forwards`` batches run in a step, their losses averaged."""

    output: str
    scaled: bool = False
    micro_steps: int = 1
    forwards: int = 1
    batch: int = CLASSES
    passes_labels: bool = True

    @classmethod
    def all(cls) -> list[Combination]:
        return [cls(*values) for values in itertools.product(OUTPUTS, (False, True), (1, 4), (1, 2), BATCHES)]


class Model(MaPLeModel):
    def __init__(self, output: str) -> None:
        super().__init__()
        self.kind = output

    def head(self, text: Tensor, image: Tensor, label: Tensor | None) -> Any:
        logits = cosine_logits(text, image)
        score = text.square().mean()
        loss = None if label is None else F.cross_entropy(logits, label) + 0.5 * score
        return {"logits": logits, "loss": loss, "tuple": (logits, score), "logits and loss": (logits, loss)}[self.kind]


class CombinedTrainer:
    """Its GradScaler is called otherwise than Dassl's, its number of micro-steps hidden behind a property."""

    def __init__(self, combination: Combination, dtype: torch.dtype = torch.float32) -> None:
        self.how = combination
        self.model: Any = Model(combination.output).to(dtype)
        self.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=[f"class {k}" for k in range(CLASSES)]))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        self.fp16 = SimpleNamespace(helper=scaler) if combination.scaled else None

    @property
    def micro_steps(self) -> int:
        return self.how.micro_steps

    def frozen_text_features(self) -> Tensor:
        return self.model.text_encoder(self.model.names)

    def main_loss(self, output: Any, label: Tensor) -> Tensor:
        if self.how.output == "logits":
            return F.cross_entropy(output, label)
        if self.how.output == "tuple":
            return F.cross_entropy(output[0], label) + 0.5 * output[1]
        return output if self.how.output == "loss" else output[1]

    def forward_backward(self, batch: list[tuple[Tensor, Tensor]] | dict[str, Any]) -> dict[str, float]:
        batches = batch["all"]
        needs = self.how.output in ("loss", "logits and loss")
        given = [(image, label) if self.how.passes_labels or needs else (image,) for image, label in batches]
        losses = [self.main_loss(self.model(*g), label) for g, (_, label) in zip(given, batches, strict=True)]
        loss = sum(losses) / len(losses) / self.micro_steps
        (self.fp16.helper.scale(loss) if self.fp16 else loss).backward()
        return {"loss": loss.item()}

    def gradient(self) -> Tensor:
        """Of one step, the scale of the GradScaler divided out."""
        scale = self.fp16.helper.get_scale() if self.fp16 else 1.0
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]).double() / scale

    def by_hand(self, regularizer: Any, batch: dict[str, Any]) -> Tensor:
        """Gradient of the mean over the forwards of (loss + regularizer), divided by the micro-steps; no hook."""
        total = torch.zeros(())
        for image, label in batch["all"]:
            text, features = self.model.encode(image)
            loss = self.main_loss(self.model.head(text, features, label), label)
            parts = regularizer.compute(FeatureBatch(text, features, label)) if regularizer else {}
            total = total + loss + sum(parts.values())
        total = total / len(batch["all"]) / self.micro_steps
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(self.model.parameters()))]).double()


def batch_of(combination: Combination, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    size = combination.batch
    batches = [
        (
            torch.randn(size, PIXELS, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for _ in range(combination.forwards)
    ]
    return {"img": batches[0][0], "label": batches[0][1], "all": batches}
