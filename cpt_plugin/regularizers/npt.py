"""NPT, our reconstruction: one global simplex ETF for text, images drawn to it (KDD 2024, arXiv 2306.15955)."""

from __future__ import annotations

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.functional import ClusterBuckets, class_convergence, etf_separation
from cpt_plugin.functional.convergence import AVERAGES
from cpt_plugin.regularizers._checks import check_choice
from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register


@register
class NPT(Regularizer):
    r"""Neural-collapse-anchored prompt tuning, reconstructed: no code and no formulas of NPT are public.

    .. math::
        L = w_{lc} \frac{1}{K(K-1)} \sum_{j \ne k} \Big(\cos(t_j, t_k) + \frac{1}{K-1}\Big)^2
          + w_{mi} \frac{1}{B} \sum_i \lVert \bar v_i - \bar t_{y_i} \rVert_2^2

    with t_k the text feature of class k of K, v_i the image feature of sample i of B and y_i its label, barred when
    scaled to length 1. The first term (part "lc", language-modality collapse) is
    :func:`~cpt_plugin.functional.etf_separation` with one cluster and "pair_mean"; the second (part "mi",
    multi-modality isomorphism) is :func:`~cpt_plugin.functional.class_convergence`. A part of weight 0 is not computed.

    Args:
        weight_lc, weight_mi: weights, finite and >= 0. The defaults are the middle of the grid 0.05 .. 5 that the
            reconstruction proposes; they were not tuned.
        average: "sample" (as in the formula) or "class" (each class of the batch counts once).

    Raises:
        ConfigError: a setting is out of range.

    Source: our reconstruction of NPT (KDD 2024, arXiv 2306.15955).
    """

    name = "npt"
    paper = "NPT, KDD 2024 (arXiv 2306.15955), our reconstruction"
    description = "one simplex ETF over all classes, image features drawn to it (our reconstruction)"
    config_node = "NPT"

    def __init__(self, weight_lc: float = 0.5, weight_mi: float = 0.5, average: str = "sample") -> None:
        given = {"lc": weight_lc, "mi": weight_mi}
        self.weights = {part: number(f"NPT.WEIGHT_{part.upper()}", weight, least=0) for part, weight in given.items()}
        self.average = check_choice("NPT.AVERAGE", average, AVERAGES)
        self._whole: ClusterBuckets | None = None

    @property
    def active(self) -> bool:
        """Whether any weight is above 0."""
        return any(weight > 0 for weight in self.weights.values())

    def describe(self) -> list[str]:
        """Return a log line on the weights."""
        weights = ", ".join(f"{part} {weight:g}" for part, weight in self.weights.items())
        return [f"NPT (our reconstruction): weights {weights}; average over each {self.average}"]

    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted parts of positive weight; see :class:`FeatureBatch` for the shapes.

        Raises:
            FeatureError: the features do not fit each other.
        """
        parts: Parts = {}
        if self.weights["lc"] > 0:
            parts["lc"] = self.weights["lc"] * etf_separation(batch.text, self._one_cluster(batch.text), "pair_mean")
        if self.weights["mi"] > 0:
            distance = class_convergence(batch.image, batch.text, batch.labels, self.average)
            parts["mi"] = self.weights["mi"] * distance
        return parts

    def _one_cluster(self, text: Tensor) -> ClusterBuckets:
        classes = text.shape[-2]
        if self._whole is None or self._whole.num_classes != classes:
            self._whole = ClusterBuckets.from_assignment(text.new_zeros(classes).long().cpu())
        self._whole = self._whole.to(text.device)
        return self._whole
