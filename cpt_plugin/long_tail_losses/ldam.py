"""LDAM: rarer classes need larger margins; with DRW_START also LDAM-DRW (NeurIPS 2019, arXiv 1906.07413)."""

from __future__ import annotations

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.functional import ldam
from cpt_plugin.long_tail_losses.base import LogitBatch, LongTailLoss, register


@register
class LDAM(LongTailLoss):
    """Label-distribution-aware margins, :func:`~cpt_plugin.functional.ldam`, and deferred re-weighting.

    Args:
        max_margin: margin of the rarest class in units of the cosine, finite and >= 0. The default is the released
            code's, for cosines that training can bring to 1; those of CLIP's images and texts lie closer together.
        drw_start: fraction of the epochs after which samples are weighed by their class's effective number, in 0 .. 1;
            1 never does, 0.8 is the released code's LDAM-DRW.
        drw_beta: of these weights, in [0, 1).

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "ldam"
    paper = "Cao et al., NeurIPS 2019 (arXiv 1906.07413)"
    description = "cross-entropy with the label's cosine lowered by a margin ~ n^(-1/4)"
    config_node = "LDAM"

    def __init__(self, max_margin: float = 0.5, drw_start: float = 1.0, drw_beta: float = 0.9999) -> None:
        self.max_margin = number("LDAM.MAX_MARGIN", max_margin, least=0)
        self.drw_start = number("LDAM.DRW_START", drw_start, least=0, most=1)
        self.drw_beta = number("LDAM.DRW_BETA", drw_beta, least=0, below=1)

    @property
    def active(self) -> bool:
        """Whether there is a margin, or weights at some time."""
        return self.max_margin > 0 or (self.drw_start < 1 and self.drw_beta > 0)

    def compute(self, batch: LogitBatch) -> Tensor:
        beta = self.drw_beta if batch.progress >= self.drw_start else 0.0
        return ldam(batch.logits, batch.labels, batch.counts, self.max_margin, batch.scale, beta)
