"""L2 anchor: tuned text features are held near the frozen ones, as in KgCoOp (CVPR 2023, arXiv 2303.13283)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import text_anchoring
from cpt_plugin.functional._checks import check_class_rows
from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register


@register
class L2Anchor(Regularizer):
    r"""Squared distance of tuned to frozen text features, :func:`~cpt_plugin.functional.text_anchoring`.

    Args:
        weight: finite and >= 0. The default is KgCoOp's: its code weighs 1 - cos, which is half of this, by 8.
        template: sentence for the frozen text features; empty for the data set's own.

    Raises:
        ConfigError: a setting is out of range.

    Source: KgCoOp (CVPR 2023, arXiv 2303.13283).
    """

    name = "l2anchor"
    paper = "KgCoOp, CVPR 2023 (arXiv 2303.13283)"
    description = "squared distance of tuned to frozen text features"
    config_node = "L2ANCHOR"

    def __init__(self, weight: float = 4.0, template: str = "") -> None:
        self.weight = number("L2ANCHOR.WEIGHT", weight, least=0)
        self.template = template
        self._frozen_text: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether the weight is above 0."""
        return self.weight > 0

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        """Keep the (K, d) text features of frozen CLIP.

        Raises:
            FeatureError: the features are not (K, d).
        """
        check_class_rows(frozen_text, "frozen_text")
        self._frozen_text = frozen_text.detach().clone()

    def describe(self) -> list[str]:
        """Return a log line on the weight."""
        return [f"l2anchor: weight {self.weight:g}"]

    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted part "l2"; see :class:`FeatureBatch` for the shapes.

        Raises:
            FeatureError: `prepare` was not called, or the batch does not fit the prepared classes.
        """
        if self._frozen_text is None:
            raise FeatureError("L2Anchor.compute was called before L2Anchor.prepare(frozen_text, class_names)")
        self._frozen_text = self._frozen_text.to(batch.text.device)
        return {"l2": self.weight * text_anchoring(batch.text, self._frozen_text)}
