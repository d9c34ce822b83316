"""Says, once, what a hook regularizes: modules and shapes, what is trained out of its reach, what ran unseen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cpt_plugin.hook.balance import leaves_reached, reaches
from cpt_plugin.hook.taps import CopiesRun, Forward
from cpt_plugin.regularizers import Regularizer

LOG = logging.getLogger("cpt_plugin")
Source = tuple[Regularizer, str]
"""The regularizer that a part comes from, and what that calls it."""


class Coverage:
    """Log lines of the first step of a hooked training.

    Attributes:
        parts_without_gradient: names of parts that reached nothing trained, in the first step in which they occurred.

    encoders, names: the tapped modules and their paths in the trainer's model, by kind.
    """

    def __init__(self, trainer: Any, encoders: Mapping[str, nn.Module], names: Mapping[str, str]) -> None:
        self._trainer = trainer
        self._encoders = encoders
        self._names = names
        self._told = False
        self._told_copies = False
        self._copies = CopiesRun.count
        self.parts_without_gradient: tuple[str, ...] = ()
        self._looked_at: set[str] = set()
        self._reaching: dict[str, bool] = {}
        self._sources: Mapping[str, Source] = {}

    def on_attaching(self) -> None:
        """Say which modules will be read."""
        names = self._names
        read = [f"{k} features from model.{names[k]} ({type(m).__name__})" for k, m in self._encoders.items()]
        LOG.info(f"CPTHook on {type(self._trainer).__name__}: {', '.join(read) or 'features as stated'}")

    def of_parts(
        self, parts: Mapping[str, Tensor], sources: Mapping[str, Source], trained: Sequence[nn.Parameter]
    ) -> None:
        """Note of each part, in the first step in which it occurs, whether its gradient reaches what is trained."""
        self._sources = sources
        new = [name for name in parts if name not in self._looked_at]
        parameters = [p for p in trained if p.numel()] if new else []
        for name in new:
            idle = remedy_of_constant(*sources[name]) is not None
            self._reaching[name] = self._reaching.get(name) or (not idle and reaches(parts[name], parameters))

    def _warn_of_parts_without_gradient(self, where: str) -> None:
        """Say at the end of a step which of the parts that are new in it have no gradient."""
        idle = [name for name, reaching in self._reaching.items() if not reaching]
        self._looked_at |= self._reaching.keys()
        self._reaching = {}
        self.parts_without_gradient += tuple(idle)
        advised: dict[str, list[str]] = {}
        for name in idle:
            remedy = remedy_of_constant(*self._sources[name])
            advice = "train prompts of the encoder that it acts on, or " if remedy is None else f"{remedy}, or "
            advised.setdefault(advice if remedy != "" else "", []).append(name)
        for advice, names in advised.items():
            named = ", ".join(f"{name} of {self._sources[name][0].name}" for name in names)
            LOG.warning(
                f"Without a gradient, {where}: {named}. Nothing that {type(self._trainer).__name__} trains changes it, "
                f"so it is logged but regularizes nothing: {advice}set its weight to 0."
            )

    def of_forward(
        self, forward: Forward, text: Tensor, image: Tensor, total: Tensor, trained: Sequence[nn.Parameter]
    ) -> None:
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
        if beyond := self._beyond(total, trained):
            LOG.info(
                f"trained, but out of the regularizers' reach (they come after the features, or beside them): "
                f"{', '.join(beyond)}"
            )

    def _beyond(self, total: Tensor, trained: Sequence[nn.Parameter]) -> list[str]:
        """Modules of the trainer's model with trained parameters that no gradient of the regularizers reaches."""
        reached = leaves_reached(total)
        if reached is None:
            return []
        missed = {id(p) for p in trained if p.numel() and id(p) not in reached}
        counts: dict[str, int] = {}
        for name, parameter in self._trainer.model.named_parameters():
            if id(parameter) in missed:
                module = name.rpartition(".")[0] or name
                counts[module] = counts.get(module, 0) + parameter.numel()
        return [f"model.{module} ({count:,} parameters)" for module, count in counts.items()]

    def end_of_step(self, where: str) -> None:
        """Say which new parts have no gradient, and once that copies of the model ran; ``where`` is the step."""
        self._warn_of_parts_without_gradient(where)
        ran, self._copies = CopiesRun.count > self._copies, CopiesRun.count
        if ran and not self._told_copies:
            self._told_copies = True
            LOG.info(
                "copies of the model or of its encoders ran with gradients on in this step (as in meta-learning); only "
                f"the forwards of {type(self._trainer).__name__}.model itself are regularized"
            )


def remedy_of_constant(regularizer: Regularizer, part: str) -> str | None:
    """What a regularizer advises against a part that is the same for all features; None for other parts."""
    return regularizer.remedy_of_constant_part(part) if part in regularizer.constant_parts() else None


def _gradient(features: Tensor) -> str:
    return "" if features.requires_grad else " without gradient"
