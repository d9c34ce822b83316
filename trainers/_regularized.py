"""The one mechanism behind CoOpCPT, MaPLeCPT and every other regularized trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from cpt_plugin import regularizers
from cpt_plugin.encoders import check_class_texts, dataset_template
from cpt_plugin.hook import CPTHook, HookHandle
from cpt_plugin.hook.checks import shared_template
from cpt_plugin.hook.features import StepView
from trainers._mixed import mixed

LOG = logging.getLogger("cpt_plugin")


class Regularized:
    """Mixin that attaches :class:`~cpt_plugin.hook.CPTHook` for the length of a training run.

    Clusters and frozen features are derived when training starts, never stored: a checkpoint holds their hash
    only, so that evaluation on other classes loads it like any other.
    """

    regularizers: ClassVar[tuple[str, ...]] = ()
    hook: HookHandle | None

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        """As in the base class, and those of the classes trained on in the regularizers' template."""
        super().check_class_names(cfg, class_names, trained)  # type: ignore[misc]
        active = [part for part in regularizers.build(cls.regularizers, cfg) if part.active] if trained else []
        if active:
            check_class_texts(class_names, shared_template(active) or dataset_template(cfg))

    def train(self, *args: Any, **kwargs: Any) -> None:
        """As in the base class; a training that fails leaves nothing attached, too."""
        try:
            super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            if self.hook is not None:
                self.hook.detach()

    def before_train(self) -> None:
        parts = regularizers.build(self.regularizers, self.cfg)  # type: ignore[attr-defined]
        conditional = self.model.prompt_learner.conditional  # type: ignore[attr-defined]
        self.hook = CPTHook(regularizers=parts, features=_of_each_image if conditional else None).attach(self)
        for line in self.hook.describe():
            LOG.info(line)
        super().before_train()  # type: ignore[misc]

    def after_train(self) -> None:
        if self.hook is not None:
            self.hook.detach()
        super().after_train()  # type: ignore[misc]

    @property
    def parts_without_gradient(self) -> tuple[str, ...]:
        """As in the base class, those of the training that is running among them."""
        found = self.hook.parts_without_gradient if self.hook is not None else ()
        return tuple(dict.fromkeys((*super().parts_without_gradient, *found)))  # type: ignore[misc]

    def checkpoint_extra(self) -> dict[str, Any]:
        return {**super().checkpoint_extra(), "cluster_hash": self.cluster_hash}  # type: ignore[misc]

    def checkpoint_header(self) -> dict[str, Any]:
        return {**super().checkpoint_header(), "loss_weights": self._factors()}  # type: ignore[misc]

    def resume_extra(self) -> dict[str, Any]:
        balance = self.hook.state_dict() if self.hook is not None else {}
        return {**super().resume_extra(), "balance": balance}  # type: ignore[misc]

    def load_resume_extra(self, saved: dict[str, Any]) -> None:
        super().load_resume_extra(saved)  # type: ignore[misc]
        if self.hook is not None:
            self.hook.load_state_dict(saved["balance"])

    def epoch_values(self) -> dict[str, float]:
        """As in the base class, and the weights that balancing has set: ``weight_etf``, ..."""
        weights = {f"weight_{name}": factor for name, factor in self._factors().items()}
        return {**super().epoch_values(), **weights}  # type: ignore[misc]

    def _factors(self) -> dict[str, float]:
        return self.hook.factors if self.hook is not None else {}

    @property
    def cluster_hash(self) -> str:
        """Hash of the class-shaped state of the regularizers; empty before training or loading."""
        return self.hook.digest if self.hook is not None else self.loaded_extra.get("cluster_hash", "")  # type: ignore[attr-defined]


def _of_each_image(step: StepView) -> tuple[Tensor, Tensor]:
    """Text features (B, K, d) of the images and image features, as this repository's encoders return them."""
    return step.text[0], step.image[0]


def regularized(base: type, names: Sequence[str]) -> type:
    """Subclass of a trainer whose training carries the named regularizers."""
    return mixed(Regularized, base, "regularizers", names)
