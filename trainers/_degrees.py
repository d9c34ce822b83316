"""Degrees of neural collapse over an epoch, from the features that training computes anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cpt_plugin.functional import isomorphism_degree, language_collapse_degree
from cpt_plugin.functional._normalize import working_dtype

FORMS = {"cos": "cosine", "fro": "frobenius"}


class EpochFeatures:
    """Class means of the unit image features seen in an epoch, and the unit text features of its last step.

    Where text features depend on the image, (B, K, d), their mean over the images of that step counts.
    """

    def __init__(self, num_classes: int, epoch: int = -1) -> None:
        self.epoch = epoch
        self._num_classes = num_classes
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None
        self.text: Tensor | None = None

    def add(self, image: Tensor, text: Tensor | None, label: Tensor) -> None:
        """Take in one step's unit features, (B, d) and (K, d) or (B, K, d) or none, and labels (B,)."""
        image, label = image.detach().to(working_dtype(image)), label.long()
        if self._sums is None or self._counts is None:
            self._sums = image.new_zeros(self._num_classes, image.shape[1])
            self._counts = image.new_zeros(self._num_classes)
        self._sums.index_add_(0, label, image)
        self._counts.index_add_(0, label, torch.ones_like(label, dtype=image.dtype))
        if text is not None:
            text = text.detach().to(working_dtype(text))
            self.text = text.mean(0) if text.ndim == 3 else text

    def degrees(self) -> dict[str, float]:
        """Delta_LCD of all text features and Delta_MID over the classes seen, in both forms (our reconstruction).

        Keys ``lcd_cos``, ``lcd_fro``, ``mid_cos``, ``mid_fro``; those that are not defined (fewer than two classes) are
        left out, as are all before the first step. Formulas:
        :mod:`cpt_plugin.functional.neural_collapse`.
        """
        if self._sums is None or self._counts is None or self.text is None:
            return {}
        seen = self._counts > 0
        if self._num_classes < 2:
            return {}
        means, text = self._sums[seen] / self._counts[seen, None], self.text
        values = {}
        for key, form in FORMS.items():
            values[f"lcd_{key}"] = language_collapse_degree(text, form)
            if len(means) > 1:
                values[f"mid_{key}"] = isomorphism_degree(means, text[seen], form)
        return {name: value.item() for name, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume inside an epoch needs."""
        return {"epoch": self.epoch, "sums": self._sums, "counts": self._counts, "text": self.text}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over a state of :meth:`state_dict`."""
        self.epoch = state["epoch"]
        self._sums, self._counts, self.text = (
            None if state[name] is None else state[name].to(device) for name in ("sums", "counts", "text")
        )
