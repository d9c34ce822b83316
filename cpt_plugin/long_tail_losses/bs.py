"""Balanced softmax: classes weigh in the softmax by their images (NeurIPS 2020, arXiv 2007.10740); LA with tau 1."""

from __future__ import annotations

from torch import Tensor

from cpt_plugin.functional import balanced_softmax
from cpt_plugin.long_tail_losses.base import LogitBatch, LongTailLoss, register


@register
class BalancedSoftmax(LongTailLoss):
    """Cross-entropy under the balanced softmax, :func:`~cpt_plugin.functional.balanced_softmax`; no settings."""

    name = "bs"
    paper = "Ren et al., NeurIPS 2020 (arXiv 2007.10740)"
    description = "cross-entropy of logits + log(class count)"
    config_node = "BS"

    @property
    def active(self) -> bool:
        """Always."""
        return True

    def compute(self, batch: LogitBatch) -> Tensor:
        return balanced_softmax(batch.logits, batch.labels, batch.counts)
