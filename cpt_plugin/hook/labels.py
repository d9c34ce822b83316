"""Which labels belong to the image features of a forward: those passed to the model, else those of the batch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cpt_plugin.errors import CPTError, FeatureError, HookError
from cpt_plugin.functional._checks import integers, shape_of
from cpt_plugin.hook.features import Stated, StepView, described
from cpt_plugin.hook.taps import Forward

_LABEL_LIKE = re.compile(r"(^|_)(labels?|targets?|gts?|y|ys)(_|$)")
_OTHER = re.compile(r"domain|cam|group|view|index|idx")
_PIXELS = 64
_STATE = (
    "state them, e.g. CPTHook(labels=lambda step: step.inputs[1]) for the model's second argument, in the runner "
    "--labels FILE.py:NAME"
)


class Labels:
    """Finds the (B,) labels of a forward.

    model: whose forward's parameter names tell labels from other whole numbers.
    stated: the ``labels=`` function; None finds them.

    Of the model's arguments, labels are the (B,) whole numbers that equal ``batch["label"]``; where none does, those
    under the one parameter that is called label, target, gt or y (rebuilt and reordered batches). Else they are
    ``batch["label"]``, unless the model's images are seen to be the batch's in another order. A batch that was
    reordered and changed cannot be recognized, and is not looked for.
    """

    def __init__(self, model: nn.Module, stated: Stated | None) -> None:
        self._model = model
        self._stated = stated

    def __call__(self, forward: Forward, batches: Sequence[Any], size: int, again: bool) -> tuple[Tensor, bool]:
        """(labels, whether they come from the batch rather than from what the model was given).

        batches: the arguments of ``forward_backward``.
        size: B.
        again: whether an earlier forward of this step has had labels; then ``batch["label"]`` will not do.

        Raises HookError where there are none, or it cannot be told which of several they are.
        """
        if self._stated is not None:
            return self._from_function(forward, size), False
        arguments = self._whole_numbers(forward, size)
        known, faults = _labels_of(batches, size)
        for value in arguments.values():
            if any(torch.equal(value.to(labels.device), labels) for _, labels in known):
                return value, False
        named = [name for name in arguments if _LABEL_LIKE.search(name) and not _OTHER.search(name)]
        if len(named) == 1:
            return arguments[named[0]], False
        if again:
            raise HookError(
                "The model ran a second time in one training step, without labels of its own, so the class of its "
                "images is not known: CPTHook(forwards=\"first\") regularizes the first forward only (in the runner "
                "--forwards first); a forward that is not trained belongs under torch.no_grad(); or "
                f"{_STATE} ({described(StepView.of(forward))})."
            )
        if not known:
            raise HookError(
                f"No labels for the {size} image features of this forward (batch[\"label\"] is {faults}; whole numbers "
                f"among the model's arguments: {_names(arguments)}): {_STATE} ({described(StepView.of(forward))})."
            )
        return self._of_batch(forward, known, arguments, size), True

    def _from_function(self, forward: Forward, size: int) -> Tensor:
        view = StepView.of(forward)
        try:
            labels = integers(self._stated(view), "labels")  # type: ignore[misc]
        except FeatureError as error:
            raise HookError(f"labels= is of no use: {error}. What it was given: {described(view)}.") from error
        except CPTError:
            raise
        except Exception as error:  # somebody's own function may fail in any way
            raise HookError(
                f"labels= failed with {type(error).__name__}: {error}. What it was given: {described(view)}."
            ) from error
        if labels.shape != (size,):
            raise HookError(
                f"labels= returned {shape_of(labels)} for {size} image features: return one label for each, (B,). What "
                f"it was given: {described(view)}."
            )
        return labels

    def _whole_numbers(self, forward: Forward, size: int) -> dict[str, Tensor]:
        """The model's arguments that are (B,) int64 tensors, by the names of its forward's parameters."""
        return {
            name: value
            for name, value in self._arguments(forward).items()
            if isinstance(value, Tensor) and value.dtype == torch.long and value.shape == (size,)
        }

    def _arguments(self, forward: Forward) -> dict[str, Any]:
        places = {f"argument {i + 1}": value for i, value in enumerate(forward.inputs)}
        try:
            names = list(inspect.signature(self._model.forward).parameters.values())
        except (TypeError, ValueError):
            return {**places, **forward.keywords}
        single = [p.name for p in names if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        named = dict(zip(single, forward.inputs, strict=False))
        rest = dict(list(places.items())[len(single) :])
        return {**named, **rest, **forward.keywords}

    def _of_batch(
        self, forward: Forward, known: list[tuple[Any, Tensor]], arguments: Mapping[str, Tensor], size: int
    ) -> Tensor:
        """``batch["label"]`` of the batch whose images the model was given, as far as that can be seen."""
        given = [leaf for leaf in tree_leaves([*forward.inputs, forward.keywords]) if _is_images(leaf, size)]
        for batch, labels in known:
            orders = [_order(image, theirs) for image in given for theirs in _images(batch, size)]
            if "same" in orders:
                return labels
            if "other" in orders:
                raise HookError(
                    "The model was given the batch's images in another order than the batch's and no labels, so "
                    f"batch[\"label\"] would be wrong: {_STATE}."
                )
        if arguments:
            raise HookError(
                f"It cannot be told whether {_names(arguments)} of the model's arguments are labels: they do not equal "
                f"batch[\"label\"], and the model's images are not the batch's as they are: {_STATE}."
            )
        if any(not torch.equal(labels, known[0][1]) for _, labels in known[1:]):
            raise HookError(
                f"forward_backward was given {len(known)} batches with {size} labels each, and the model's images are "
                f"none of theirs as they are, so it cannot be told whose labels hold: {_STATE}."
            )
        return known[0][1]


def _labels_of(batches: Sequence[Any], size: int) -> tuple[list[tuple[Any, Tensor]], str]:
    """(batch, its (B,) labels) of the batches that have such, and why the last of the others has not."""
    known, fault = [], "missing"
    for batch in batches:
        labels = batch.get("label") if isinstance(batch, Mapping) else None
        if labels is None:
            continue
        try:
            numbers = integers(labels, "labels")
        except FeatureError as error:
            fault = f"of no use: {error}"
            continue
        if numbers.shape == (size,):
            known.append((batch, numbers))
        else:
            fault = f"of shape {shape_of(numbers)}"
    return known, fault


def _names(arguments: Mapping[str, Tensor]) -> str:
    return ", ".join(arguments) or "none"


def _is_images(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and len(value) == size


def _images(batch: Mapping[str, Any], size: int) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(dict(batch)) if _is_images(leaf, size)]


def _order(given: Tensor, of_batch: Tensor) -> str:
    """How the images given to the model relate to the batch's: ``same``, in an``other`` order, or ``unknown``."""
    if given is of_batch:
        return "same"
    if given.shape != of_batch.shape:
        return "unknown"
    ours, theirs = (_sampled(images) for images in (given, of_batch))
    theirs = theirs.to(given.dtype).to(ours.device)
    if torch.equal(ours, theirs):
        return "same"
    found = (ours[:, None] == theirs[None]).all(dim=2)
    return "other" if bool(found.any(dim=1).all()) else "unknown"


def _sampled(images: Tensor) -> Tensor:
    """(B, n) pixels of each image, spread over it, n at most about :data:`_PIXELS`."""
    flat = images.detach().flatten(1)
    return flat[:, :: max(1, flat.shape[1] // _PIXELS)]
