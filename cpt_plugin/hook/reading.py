"""How a hook reads a trainer: which modules give features, and what is stated because it cannot be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cpt_plugin._names import nearest
from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook.features import Stated
from cpt_plugin.regularizers._checks import check_choice

TEXT_MODULE, IMAGE_MODULE = "text_encoder", "image_encoder"
BACKWARD = {"once": 0, "first": 1, "second": 2}
"""Choices of ``backward``, and which back-propagation of an output they mean; 0 for the only one."""
_CHOICES = {"forwards": ("each", "first"), "backward": tuple(BACKWARD)}


@dataclass(frozen=True)
class Reading:
    """The options of :class:`~cpt_plugin.hook.CPTHook` that say how a trainer is to be read; see there.

    Raises ConfigError for impossible values.
    """

    text: str = TEXT_MODULE
    image: str = IMAGE_MODULE
    features: Stated | None = None
    labels: Stated | None = None
    accumulation: int | None = None
    forwards: str = "each"
    backward: str = "once"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("features", "labels"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise ConfigError(f"{name} is {function!r}: give a function of one argument, lambda step: ...")
        steps = self.accumulation
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ConfigError(f"accumulation is {steps!r}: give the number of steps, at least 1.")
        for name in ("text", "image"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: give the path of a module of the trainer's model, e.g. "
                    f"{name}='{name}_encoder'"
                )

    def encoders(self, model: nn.Module) -> dict[str, nn.Module]:
        """The named modules of a model by kind; with ``features=``, those that it has.

        Raises HookError where a module is not there and nothing else says what the features are.
        """
        found = {kind: _module_at(model, path) for kind, path in (("text", self.text), ("image", self.image))}
        for kind, module in found.items():
            if module is None and self.features is None:
                raise HookError(_no_module(model, kind, getattr(self, kind)))
        return {kind: module for kind, module in found.items() if module is not None}


def _module_at(model: nn.Module, path: str) -> nn.Module | None:
    """The module under a dotted path of attributes and list indices; None where there is none."""
    value: Any = model
    for part in path.split("."):
        if part.isdigit() and not hasattr(value, part):
            value = value[int(part)] if isinstance(value, Sequence) and int(part) < len(value) else None
        else:
            value = getattr(value, part, None)
    return value if isinstance(value, nn.Module) else None


def _no_module(model: nn.Module, kind: str, path: str) -> str:
    children = ", ".join(name for name, _ in model.named_children()) or "none"
    near = nearest(path, [name for name, _ in model.named_modules() if name], cutoff=0.6)
    meant = f"did you mean {near!r}? " if near else ""
    return (
        f"{type(model).__name__} has no module `{path}` ({meant}its own modules: {children}), as in PromptKD, whose "
        "text features come from a teacher, or VPT, which computes them beforehand: name the module whose output are "
        f'the {kind} features, CPTHook({kind}="PATH") (in the runner --{kind}-module PATH), state the features, '
        "CPTHook(features=lambda step: (..., ...)), use a method with learned text prompts, or CPTLoss in your own "
        "training loop."
    )
