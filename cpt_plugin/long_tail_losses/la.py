"""Logit adjustment: the log class frequencies are added to the logits in training (ICLR 2021, arXiv 2007.07314)."""

from __future__ import annotations

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.functional import logit_adjustment
from cpt_plugin.long_tail_losses.base import LogitBatch, LongTailLoss, register


@register
class LogitAdjustment(LongTailLoss):
    """Logit-adjusted cross-entropy, :func:`~cpt_plugin.functional.logit_adjustment`.

    Args:
        tau: coefficient of the log frequencies, finite; 0 is the cross-entropy.

    Raises:
        ConfigError: tau is not finite.
    """

    name = "la"
    paper = "Menon et al., ICLR 2021 (arXiv 2007.07314)"
    description = "cross-entropy of logits + tau log(class frequency)"
    config_node = "LA"

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = number("LA.TAU", tau)

    @property
    def active(self) -> bool:
        """Whether tau is not 0."""
        return self.tau != 0

    def compute(self, batch: LogitBatch) -> Tensor:
        return logit_adjustment(batch.logits, batch.labels, batch.counts, self.tau)
