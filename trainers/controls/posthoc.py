"""Post-hoc logit adjustment: log class frequencies are taken off the logits in evaluation (arXiv 2007.07314)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.errors import ConfigError
from cpt_plugin.functional import posthoc_adjustment
from trainers.controls.base import Control, register


@register
class PostHoc(Control):
    """:func:`~cpt_plugin.functional.posthoc_adjustment` of the classes that were trained; other classes have no prior.

    Args:
        tau: coefficient of the log frequencies, finite; 0 evaluates the logits as they are.

    Raises:
        ConfigError: tau is not finite.
    """

    name = "posthoc"
    paper = "Menon et al., ICLR 2021 (arXiv 2007.07314)"
    description = "logits - tau log(class frequency) on the trained classes; evaluated from the method without it"
    config_node = "POSTHOC"
    trains = False

    def __init__(self, tau: float = 1.0) -> None:
        if not math.isfinite(tau):
            raise ConfigError(f"POSTHOC.TAU must be finite, got {tau!r}")
        self.tau = tau

    @property
    def active(self) -> bool:
        """Whether tau is not 0."""
        return self.tau != 0

    def adjust(self, logits: Tensor, trainer: Any) -> Tensor:
        if trainer.loaded_classes != trainer.dm.dataset.classnames:
            return logits
        counts = torch.tensor(trainer.dm.class_counts, device=logits.device)
        return posthoc_adjustment(logits, counts, self.tau)

    def describe(self) -> list[str]:
        return [f"posthoc: logits of the trained classes less {self.tau:g} times their log frequency"]
