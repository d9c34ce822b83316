"""Early stopping: every epoch is evaluated on validation images, and the best one's prompts are used (a control)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from trainers.controls.base import Control, register


@register
class Stop(Control):
    """Uses the prompts of the epoch with the highest validation accuracy, of equal ones the first; no settings.

    All epochs are trained, so a later best one is found. Validation images are those of the data set's split, few-shot
    where training images are, and not long-tailed; where they are test images, training is refused.
    """

    name = "stop"
    paper = "early stopping, Prechelt 1998; a control"
    description = "the epoch with the best validation accuracy is used, not the last"
    config_node = "STOP"
    trains = True
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({"TEST.FINAL_MODEL": "best_val"})

    @property
    def active(self) -> bool:
        """Always."""
        return True
