"""Says, once, what a hook regularizes: modules and shapes, what is trained out of its reach, what ran unseen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cpt_plugin.hook.balance import leaves_reached, trained_parameters
from cpt_plugin.hook.taps import CopiesRun, Forward

LOG = logging.getLogger("cpt_plugin")


class Coverage:
    """Log lines of the first step of a hooked training.

    encoders, names: the tapped modules and their paths in the trainer's model, by kind.
    """

    def __init__(self, trainer: Any, encoders: Mapping[str, nn.Module], names: Mapping[str, str]) -> None:
        self._trainer = trainer
        self._encoders = encoders
        self._names = names
        self._told = False
        self._told_copies = False
        self._copies = CopiesRun.count

    def on_attaching(self) -> None:
        """Say which modules will be read."""
        names = self._names
        read = [f"{k} features from model.{names[k]} ({type(m).__name__})" for k, m in self._encoders.items()]
        LOG.info(f"CPTHook on {type(self._trainer).__name__}: {', '.join(read) or 'features as stated'}")

    def of_forward(self, forward: Forward, text: Tensor, image: Tensor, total: Tensor) -> None:
        """Say of the first forward which features are regularized, and which trained modules get nothing of it."""
        if self._told:
            return
        self._told = True
        calls = ", ".join(
            f"{len(forward.calls[kind])} call{'s' * (len(forward.calls[kind]) != 1)} of model.{self._names[kind]}"
            for kind in self._encoders
        )
        LOG.info(
            f"regularized: text features {tuple(text.shape)}{_gradient(text)}, image features {tuple(image.shape)}"
            f"{_gradient(image)}; {calls or 'no tapped module'}"
        )
        if beyond := self._beyond(total):
            LOG.info(
                f"trained, but out of the regularizers' reach (they come after the features, or beside them): "
                f"{', '.join(beyond)}"
            )

    def _beyond(self, total: Tensor) -> list[str]:
        """Modules of the trainer's model with trained parameters that no gradient of the regularizers reaches."""
        parameters = [p for p in trained_parameters(self._trainer) if p.numel()]
        reached = leaves_reached(total)
        if reached is None:
            return []
        missed = {id(p) for p in parameters if id(p) not in reached}
        counts: dict[str, int] = {}
        for name, parameter in self._trainer.model.named_parameters():
            if id(parameter) in missed:
                module = name.rpartition(".")[0] or name
                counts[module] = counts.get(module, 0) + parameter.numel()
        return [f"model.{module} ({count:,} parameters)" for module, count in counts.items()]

    def end_of_step(self) -> None:
        """Say once that copies of the model ran in a step."""
        ran, self._copies = CopiesRun.count > self._copies, CopiesRun.count
        if ran and not self._told_copies:
            self._told_copies = True
            LOG.info(
                "copies of the model or of its encoders ran with gradients on in this step (as in meta-learning); only "
                f"the forwards of {type(self._trainer).__name__}.model itself are regularized"
            )


def _gradient(features: Tensor) -> str:
    return "" if features.requires_grad else " without gradient"
