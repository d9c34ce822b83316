"""What a trainer must offer to a hook, and what it says about class names and templates."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cpt_plugin.errors import ConfigError, FeatureError, HookError
from cpt_plugin.functional._checks import class_numbers

attached_models: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()
"""The step (:class:`~cpt_plugin.hook.step.RegularizedStep`) that each regularized model is attached by."""


def check_trainer(trainer: Any) -> None:
    """Raise HookError, with reason and remedy, if ``trainer`` cannot be regularized.

    A hook whose last step failed, as that of a training that came to an error, is taken off.
    """
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
    attached = attached_models[model]() if model in attached_models else None
    if attached is not None and attached.failed:
        attached.uninstall()
    elif attached is not None:
        raise HookError(
            "A CPTHook is attached to this trainer already: detach() it first; to add several regularizers, "
            "give them to one CPTHook as regularizers=[...]."
        )
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise HookError(
            "trainer.model is compiled by torch.compile, which may drop hooks: attach to the plain model, "
            "and compile its encoders if need be."
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


def resolve_class_counts(trainer: Any, given: Sequence[int] | None, num_classes: int) -> Tensor:
    """(K,) training images of each class: the given ones, else ``dm.class_counts``, else counted in the data set.

    Raises HookError where there is neither, or they are not K numbers >= 0 of which one is above 0.
    """
    dm = getattr(trainer, "dm", None)
    items = getattr(getattr(dm, "dataset", None), "train_x", None)
    counts = given if given is not None else getattr(dm, "class_counts", None)
    if counts is None and items:
        found = Counter(int(item.label) for item in items)
        counts = [found[label] for label in range(max(num_classes, max(found) + 1))]
    if counts is None:
        raise HookError(
            f"{type(trainer).__name__} has no dm.class_counts and no dm.dataset.train_x, from which training images "
            "could be counted: give CPTHook(counts=[...]), the number of each class in the order of the labels."
        )
    try:
        numbers = class_numbers(counts, "counts")
        fits = len(numbers) == num_classes and bool((numbers == numbers.round()).all()) and bool(numbers.any())
    except FeatureError:
        fits = False
    if not fits:
        raise HookError(
            f"The counts of training images, {_plain(counts)}, are not one whole number >= 0 for each of {num_classes} "
            "class names, with one above 0: give CPTHook(counts=[...]) of the classes that are trained."
        )
    return numbers.long()


def _plain(values: Any) -> Any:
    return values.tolist() if isinstance(values, Tensor) else values
