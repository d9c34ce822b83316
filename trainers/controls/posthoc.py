"""Post-hoc logit adjustment: log class frequencies are taken off the logits in evaluation (arXiv 2007.07314)."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from cpt_plugin._names import some
from cpt_plugin._numbers import number
from cpt_plugin.errors import CheckpointError
from cpt_plugin.functional import posthoc_adjustment
from trainers.controls.base import Control, register

LOG = logging.getLogger("cpt_plugin")


@register
class PostHoc(Control):
    r""":func:`~cpt_plugin.functional.posthoc_adjustment` of the classes that were trained; other classes have no prior.

    The frequencies are those of the training, as the checkpoint of the prompts keeps them, whatever data the command
    that evaluates them names; classes are the same where their names are. Where all evaluated classes were trained,
    the logits become z - tau log pi. Beside others, which stay as they are, a trained class becomes

    .. math:: z_c - \tau \log(K \pi_c)

    with K the trained classes: one with the average number of images stays beside those without a prior.

    Args:
        tau: coefficient of the log frequencies, finite; 0 evaluates the logits as they are.

    Raises:
        ConfigError: tau is not finite.
    """

    name = "posthoc"
    paper = "Menon et al., ICLR 2021 (arXiv 2007.07314)"
    description = "logits - tau log(class frequency) on the trained classes; evaluated from the method without it"
    config_node = "POSTHOC"
    trains = False

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = number("POSTHOC.TAU", tau)
        self._trained: Any = None
        self._counts: list[int | None] = []

    @property
    def active(self) -> bool:
        """Whether tau is not 0."""
        return self.tau != 0

    def adjust(self, logits: Tensor, trainer: Any) -> Tensor:
        """Return (B, K) adjusted logits.

        Raises:
            CheckpointError: classes of the prompts' training are evaluated, and their checkpoint has no frequencies.
        """
        if trainer.trained is not self._trained:
            self._counts = _counts(trainer)
            self._trained = trainer.trained
        known = [label for label, count in enumerate(self._counts) if count is not None]
        if not known:
            return logits
        counts = torch.tensor([self._counts[label] for label in known], device=logits.device)
        if len(known) == logits.shape[1]:
            return posthoc_adjustment(logits, counts, self.tau)
        columns = torch.tensor(known, device=logits.device)
        images = torch.tensor(trainer.trained_class_counts).clamp(min=1)
        average = images.double().mean()
        shift = self.tau * (counts.clamp(min=1) / average.to(logits.device)).log()
        return logits.index_add(1, columns, -shift.to(logits.dtype).expand(len(logits), -1))

    def describe(self) -> list[str]:
        return [f"posthoc: logits of the trained classes less {self.tau:g} times their log frequency"]


def _counts(trainer: Any) -> list[int | None]:
    """Training images of each evaluated class, None for one without a prior; logs which these are."""
    trained, evaluated = trainer.trained, trainer.dm.dataset.classnames
    if trained.unknown and (not trained.class_names or {*evaluated} & {*trained.class_names}):
        raise CheckpointError(f"posthoc takes the log frequencies of the trained classes off, but {trained.unknown}.")
    counts = trainer.images_trained_on() if trained.class_names else [None] * len(evaluated)
    others = [name for name, count in zip(evaluated, counts, strict=True) if count is None]
    adjusted = len(evaluated) - len(others)
    if not adjusted:
        LOG.info(f"posthoc: none of the {len(evaluated)} classes here was trained: their logits stay as they are")
    elif others:
        LOG.warning(
            f"posthoc: {adjusted} of the {len(evaluated)} classes here were trained and are adjusted; {len(others)} "
            f"have no prior (their names are of no trained class, or do not tell which) and stay as they are: "
            f"{some(others)}"
        )
    if adjusted:
        images = [count for count in counts if count is not None]
        LOG.info(f"posthoc: {max(images)} to {min(images)} training images in the {adjusted} adjusted classes")
    return counts
