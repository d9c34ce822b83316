"""Class-balanced loss: samples weigh by the inverse effective number of their class (CVPR 2019, arXiv 1901.05555)."""

from __future__ import annotations

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.functional import class_balanced
from cpt_plugin.long_tail_losses.base import LogitBatch, LongTailLoss, register


@register
class ClassBalanced(LongTailLoss):
    """Class-balanced cross-entropy, :func:`~cpt_plugin.functional.class_balanced`.

    Args:
        beta: in [0, 1); 0 is the cross-entropy, towards 1 the weights become inverse class frequencies.

    Raises:
        ConfigError: beta is out of range.
    """

    name = "cb"
    paper = "Cui et al., CVPR 2019 (arXiv 1901.05555)"
    description = "cross-entropy weighted by (1 - beta) / (1 - beta^n) of each class"
    config_node = "CB"

    def __init__(self, beta: float = 0.9999) -> None:
        self.beta = number("CB.BETA", beta, least=0, below=1)

    @property
    def active(self) -> bool:
        """Whether beta is not 0."""
        return self.beta > 0

    def compute(self, batch: LogitBatch) -> Tensor:
        return class_balanced(batch.logits, batch.labels, batch.counts, self.beta)
