"""DAPT's losses: text features spread, image features drawn to frozen prototypes (ICCV 2023, arXiv 2309.03406)."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import inter_dispersion, intra_dispersion
from cpt_plugin.functional._checks import check_class_rows
from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register


@register
class DAPT(Regularizer):
    r"""Distribution-aware prompt tuning: the two losses of DAPT, for any prompt learner.

    .. math::
        L = \beta_t L_{inter} + \beta_v L_{intra}

    with :func:`~cpt_plugin.functional.inter_dispersion` of the text features (part "inter") and
    :func:`~cpt_plugin.functional.intra_dispersion` of the image features (part "intra") around prototypes, the class
    means of frozen CLIP's unit image features of the training images. A part of weight 0 is not computed, and without
    the second no prototypes are needed.

    Args:
        beta_t, beta_v: weights, finite and >= 0. The defaults are the released code's; the paper's differ by data set.
        temperature: tau of the inter-dispersion, > 0.

    Raises:
        ConfigError: a setting is out of range.

    Source: DAPT (ICCV 2023, arXiv 2309.03406).
    """

    name = "dapt"
    paper = "DAPT, ICCV 2023 (arXiv 2309.03406)"
    description = "inter-dispersion of text features, intra-dispersion of image features around prototypes"
    config_node = "DAPT"

    def __init__(self, beta_t: float = 0.1, beta_v: float = 0.1, temperature: float = 2.0) -> None:
        self.weights = {
            "inter": number("DAPT.BETA_T", beta_t, least=0),
            "intra": number("DAPT.BETA_V", beta_v, least=0),
        }
        self.temperature = number("DAPT.TEMPERATURE", temperature, above=0)
        self.needs_prototypes = self.weights["intra"] > 0
        self._prototypes: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether any weight is above 0."""
        return any(weight > 0 for weight in self.weights.values())

    def prepare_prototypes(self, prototypes: Tensor) -> None:
        """Keep the (K, d) class means of frozen unit image features, which are not scaled again.

        Raises:
            FeatureError: not (K, d), or not finite.
        """
        check_class_rows(prototypes, "prototypes")
        if not prototypes.isfinite().all():
            raise FeatureError(f"prototypes {tuple(prototypes.shape)} are not all finite; every class needs an image")
        self._prototypes = prototypes.detach().clone()

    def digest(self) -> str:
        """Return a hash of the prototypes that other images change, and rounding on another device hardly ever does.

        It covers their shape and 16 fixed sums of their entries with signs, in steps of 1/100 of such a sum's usual
        size; of the entries themselves, each rounded, some would always lie at the edge of a step.
        """
        if self._prototypes is None:
            return ""
        entries = self._prototypes.double().cpu().flatten()
        signs = torch.cos(torch.outer(torch.arange(1.0, 17.0), torch.arange(1.0, len(entries) + 1)).double()).sign()
        sums = signs @ entries / math.sqrt(len(self._prototypes))
        text = f"{tuple(self._prototypes.shape)} {(100 * sums).round().long().tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> list[str]:
        """Return a log line on the weights and the prototypes."""
        made = f"; {len(self._prototypes)} prototypes" if self._prototypes is not None else ""
        weights = ", ".join(f"{part} {weight:g}" for part, weight in self.weights.items())
        return [f"DAPT: weights {weights}; temperature {self.temperature:g}{made}"]

    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted parts of positive weight; see :class:`FeatureBatch` for the shapes.

        Raises:
            FeatureError: prototypes are needed and were not prepared, or the batch does not fit them.
        """
        parts: Parts = {}
        if self.weights["inter"] > 0:
            parts["inter"] = self.weights["inter"] * inter_dispersion(batch.text, self.temperature)
        if self.weights["intra"] > 0:
            if self._prototypes is None:
                raise FeatureError("DAPT.compute was called before DAPT.prepare_prototypes(prototypes)")
            if len(self._prototypes) != batch.text.shape[-2]:
                raise FeatureError(
                    f"DAPT has {len(self._prototypes)} prototypes, text {tuple(batch.text.shape)} has "
                    f"{batch.text.shape[-2]} classes; prepare the prototypes of the classes that are trained"
                )
            self._prototypes = self._prototypes.to(batch.image.device)
            distance = intra_dispersion(batch.image, self._prototypes, batch.labels)
            parts["intra"] = self.weights["intra"] * distance
        return parts
