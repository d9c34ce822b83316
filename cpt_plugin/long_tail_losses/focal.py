"""Focal loss: well-classified samples count less (ICCV 2017, arXiv 1708.02002)."""

from __future__ import annotations

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.functional import focal
from cpt_plugin.long_tail_losses.base import LogitBatch, LongTailLoss, register


@register
class Focal(LongTailLoss):
    """Focal loss over the softmax, :func:`~cpt_plugin.functional.focal`.

    Args:
        gamma: exponent, finite and >= 0; 0 is the cross-entropy.

    Raises:
        ConfigError: gamma is out of range.
    """

    name = "focal"
    paper = "Lin et al., ICCV 2017 (arXiv 1708.02002)"
    description = "cross-entropy of each sample times (1 - p)^gamma"
    config_node = "FOCAL"

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = number("FOCAL.GAMMA", gamma, least=0)

    @property
    def active(self) -> bool:
        """Whether gamma is not 0."""
        return self.gamma > 0

    def compute(self, batch: LogitBatch) -> Tensor:
        return focal(batch.logits, batch.labels, self.gamma)
