"""The one mechanism behind CoOpLA, MaPLeFOCAL and every other trainer with a long-tail loss."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from cpt_plugin import long_tail_losses
from cpt_plugin.long_tail_losses import LogitBatch, LongTailLoss, checked_loss
from trainers._mixed import mixed


class LongTail:
    """Mixin that puts a long-tail loss in the place of the cross-entropy; one without effect leaves it alone."""

    long_tail_losses: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def long_tail_loss(self) -> LongTailLoss | None:
        """The loss with its settings; None if they make it the cross-entropy."""
        (loss,) = long_tail_losses.build(self.long_tail_losses, self.cfg)  # type: ignore[attr-defined]
        return loss if loss.active else None

    @cached_property
    def _counts(self) -> Tensor:
        return torch.tensor(self.dm.class_counts, device=self.device)  # type: ignore[attr-defined]

    @property
    def classification_part(self) -> str:
        return self.long_tail_loss.name if self.long_tail_loss else super().classification_part  # type: ignore[misc]

    def classification_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.long_tail_loss is None:
            return super().classification_loss(logits, label)  # type: ignore[misc]
        trainer: Any = self
        progress = trainer.epoch / trainer.max_epoch
        scale = trainer.model.logit_scale
        batch = LogitBatch(logits, label, self._counts, scale, progress)
        return checked_loss(self.long_tail_loss, self.long_tail_loss.compute(batch))


def with_loss(base: type, names: tuple[str, ...]) -> type:
    """Subclass of a trainer that minimizes the named loss; a second stage then wants a first one that did so."""
    trainer: Any = mixed(LongTail, base, "long_tail_losses", names)
    if first := getattr(base, "first_stage", ""):
        trainer.first_stage = first + trainer.__name__.removeprefix(base.__name__)
    return trainer
