"""What a trainer must offer to a hook, and what it says about class names and templates."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import nn

from cpt_plugin.errors import ConfigError, HookError

attached_models: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def check_trainer(trainer: Any) -> None:
    """Raise HookError, with reason and remedy, if ``trainer`` cannot be regularized."""
    model = getattr(trainer, "model", None)
    if not isinstance(model, nn.Module) or not callable(getattr(trainer, "forward_backward", None)):
        raise HookError(
            f"{type(trainer).__name__} has no torch module `model` or no method `forward_backward`: attach "
            "to a trainer in Dassl's manner after its model was built, or use CPTLoss in your own training "
            "loop."
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise HookError(
            f"trainer.model is wrapped in {type(model).__name__}, whose replicas hide the features: train on "
            "one GPU, e.g. with the environment variable CUDA_VISIBLE_DEVICES=0."
        )
    if model in attached_models:
        raise HookError(
            "A CPTHook is attached to this trainer already: detach() it first; to add several regularizers, "
            "give them to one CPTHook as regularizers=[...]."
        )
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise HookError(
            "trainer.model is compiled by torch.compile, which may drop hooks: attach to the plain model, "
            "and compile its encoders if need be."
        )
    for name in ("text_encoder", "image_encoder"):
        if not isinstance(getattr(model, name, None), nn.Module):
            raise HookError(
                f"{type(model).__name__} has no module `{name}` (as in PromptKD, whose text features come "
                "from a teacher, or VPT, which computes them beforehand): use a method with learned text "
                f"prompts, name the encoder `{name}`, or use CPTLoss in your own training loop."
            )


def shared_template(regularizers: Sequence[Any]) -> str:
    """The sentence that the regularizers want the frozen text features of; "" is the data set's own.

    Raises ConfigError if they want different ones.
    """
    wanted = {r.name: r.template for r in regularizers if getattr(r, "template", None) is not None}
    if len({*wanted.values()}) > 1:
        named = ", ".join(f"{name} {template!r}" for name, template in wanted.items())
        raise ConfigError(f"The regularizers want frozen text features of different templates ({named}): give one.")
    return next(iter(wanted.values()), "")


def resolve_class_names(trainer: Any, given: Sequence[str] | None) -> list[str]:
    """K class names in the order of the labels: the given ones, else the data set's."""
    if given is not None:
        return list(given)
    names = getattr(getattr(getattr(trainer, "dm", None), "dataset", None), "classnames", None)
    if names is None:
        raise HookError(
            f"{type(trainer).__name__} has no dm.dataset.classnames: give CPTHook(class_names=[...]), in the "
            "order of the labels."
        )
    return list(names)
