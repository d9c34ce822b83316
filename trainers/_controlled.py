"""The one mechanism behind CoOpMIX, MaPLeSTOP and every other trainer with controls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from cpt_plugin.encoders import check_class_texts, dataset_template
from cpt_plugin.errors import ConfigError
from trainers import controls
from trainers._mixed import mixed
from trainers.controls import Control

LOG = logging.getLogger("cpt_plugin")


class Controlled:
    """Mixin of trainers with controls; those whose settings make them do nothing are absent."""

    controls: ClassVar[tuple[str, ...]] = ()

    def check_cfg(self, cfg: Any) -> None:
        """Refuse other values of the keys that a control sets.

        Raises:
            ConfigError: as in the base class; such a key is named.
        """
        super().check_cfg(cfg)  # type: ignore[misc]
        for name in self.controls:
            for key, value in controls.available()[name].settings.items():
                node, _, leaf = key.rpartition(".")
                if cfg[node][leaf] != value:
                    raise ConfigError(f"{name} needs {key} {value}, not {cfg[node][leaf]}; set it so, or leave it out")

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        """As in the base class, and in the templates of the controls."""
        super().check_class_names(cfg, class_names, trained)  # type: ignore[misc]
        for control in controls.build(cls.controls, cfg):
            if control.active and (template := getattr(control, "template", None)) is not None:
                check_class_texts(class_names, template or dataset_template(cfg))

    def build_model(self) -> None:
        super().build_model()  # type: ignore[misc]
        built = controls.build(self.controls, self.cfg)  # type: ignore[attr-defined]
        self.active_controls: list[Control] = [control for control in built if control.active]
        for control in self.active_controls:
            control.model_built(self)
            for line in control.describe():
                LOG.info(line)

    def before_train(self) -> None:
        """Refuse to train for a control of evaluation.

        Raises:
            ConfigError: naming what to do.
        """
        for name in self.controls:
            if not controls.available()[name].trains:
                plain = type(self).__name__.replace(name.upper(), "")
                raise ConfigError(
                    f"{name} trains nothing: train {plain}, then evaluate its output folder with "
                    f"{type(self).__name__} (--eval-only --model-dir)."
                )
        super().before_train()  # type: ignore[misc]

    def model_inference(self, image: Tensor) -> Tensor:
        logits = super().model_inference(image)  # type: ignore[misc]
        for control in self.active_controls:
            logits = control.adjust(logits, self)
        return logits


def controlled(base: type, names: Sequence[str]) -> type:
    """Subclass of a trainer with the named controls."""
    return mixed(Controlled, base, "controls", names)
