"""Fixed-ETF text anchors: text features are drawn to a simplex fixed near the frozen ones (after arXiv 2203.09081)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import nearest_simplex, text_anchoring
from cpt_plugin.functional._checks import check_text
from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register


@register
class ETFAnchors(Regularizer):
    r"""Squared distance of tuned text features to the vertices of one fixed simplex ETF over all classes.

    The simplex is the one nearest to the frozen text features, :func:`~cpt_plugin.functional.nearest_simplex`, so its
    rotation, which the ETF leaves free, changes them least. The loss is :func:`~cpt_plugin.functional.text_anchoring`.

    Args:
        weight: finite and >= 0; the default was not tuned.
        template: sentence for the frozen text features; empty for the data set's own.

    Raises:
        ConfigError: a setting is out of range.

    Source: the idea of a fixed ETF as classifier is Yang et al. (NeurIPS 2022, arXiv 2203.09081); as anchors of text
    features it is ours.
    """

    name = "etfa"
    paper = "Yang et al., NeurIPS 2022 (arXiv 2203.09081), as text anchors of our own"
    description = "squared distance of text features to a fixed simplex ETF near the frozen ones"
    config_node = "ETFA"

    def __init__(self, weight: float = 1.0, template: str = "") -> None:
        self.weight = number("ETFA.WEIGHT", weight, least=0)
        self.template = template
        self._anchors: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether the weight is above 0."""
        return self.weight > 0

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        """Fix the simplex.

        Raises:
            FeatureError: the features are not (K, d), or K - 1 > d: there is no such simplex.
        """
        check_text(frozen_text, "frozen_text")
        self._anchors = nearest_simplex(frozen_text.detach())

    def digest(self) -> str:
        """Return a hash of the anchors, to 3 decimals."""
        if self._anchors is None:
            return ""
        rounded = (1000 * self._anchors.double().cpu()).round().int()
        return hashlib.sha256(rounded.numpy().tobytes()).hexdigest()

    def describe(self) -> list[str]:
        """Return a log line on the weight and the anchors."""
        made = f", {len(self._anchors)} anchors" if self._anchors is not None else ""
        return [f"etfa: weight {self.weight:g}{made}"]

    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted part "etfa"; see :class:`FeatureBatch` for the shapes.

        Raises:
            FeatureError: `prepare` was not called, or the batch does not fit the prepared classes.
        """
        if self._anchors is None:
            raise FeatureError("ETFAnchors.compute was called before ETFAnchors.prepare(frozen_text, class_names)")
        self._anchors = self._anchors.to(batch.text.device)
        return {"etfa": self.weight * text_anchoring(batch.text, self._anchors)}
