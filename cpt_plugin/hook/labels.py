"""Which labels belong to the image features of a forward: those passed to the model, else those of the batch."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cpt_plugin.errors import FeatureError, HookError
from cpt_plugin.functional._checks import integers, shape_of
from cpt_plugin.hook.features import Stated, StepView, asked, described
from cpt_plugin.hook.taps import Forward

LOG = logging.getLogger("cpt_plugin")
_LABEL_LIKE = re.compile(r"(^|_)(labels?|targets?|gts?|y|ys)(_|$)")
_OTHER = re.compile(r"domain|cam|group|view|index|idx")
_PIXELS = 64
_FIRST_LABELED = "a pass that is not trained on labels belongs under torch.no_grad() or in another trainer"
_STATE = (
    "state them, e.g. CPTHook(labels=lambda step: step.inputs[1]) for the model's second argument, in the runner "
    "--labels FILE.py:NAME"
)


class Labels:
    """Finds the (B,) labels of a forward.

    classes: K; labels are 0 .. K-1.
    model: whose forward's parameter names tell labels from other whole numbers.
    stated: the ``labels=`` function; None finds them.

    Of the model's arguments, labels are the (B,) whole numbers that equal ``batch["label"]``; where none does, those
    under the one parameter that is called label, target, gt or y (rebuilt and reordered batches). Else they are
    ``batch["label"]``, unless the model's images are seen to be the batch's in another order. A batch that was
    reordered and changed cannot be recognized, and is not looked for.
    """

    def __init__(self, model: nn.Module, classes: int, stated: Stated | None) -> None:
        self._model = model
        self._classes = classes
        self._stated = stated
        self._told = False

    def __call__(self, forward: Forward, batches: Sequence[Any], size: int, again: bool) -> tuple[Tensor, bool]:
        """(labels, whether that is sure: they are stated, or both given to the model and the batch's).

        batches: the arguments of ``forward_backward``.
        size: B.
        again: whether an earlier forward of this step has had labels; then ``batch["label"]`` will not do.

        Raises HookError where there are none, or it cannot be told which of several they are.
        """
        if self._stated is not None:
            return self._in_range(self._from_function(forward, size)), True
        arguments = self._whole_numbers(forward, size)
        known, fault = _labels_of(batches[0] if batches else None, size)
        for value in arguments.values():
            if known is not None and torch.equal(value.to(known.device), known):
                return self._in_range(value), True
        order = self._order(forward, known is not None, batches, size)
        named = [name for name in arguments if _LABEL_LIKE.search(name) and not _OTHER.search(name)]
        if len(named) == 1 and order != "same":
            return self._in_range(arguments[named[0]]), False
        if named and order == "same":
            raise HookError(
                f"The model was given the batch's images, and as {', '.join(named)} other whole numbers than "
                f'batch["label"], so it cannot be told which are the labels: {_STATE}.'
            )
        if again and order != "same":
            raise HookError(
                "The model ran a second time in one training step, without labels of its own, so the class of its "
                "images is not known: CPTHook(forwards=\"first\") regularizes the first forward only (in the runner "
                "--forwards first); a forward that is not trained belongs under torch.no_grad(); or "
                f"{_STATE} ({described(StepView.of(forward))})."
            )
        if known is None:
            raise HookError(
                f"No labels for the {size} image features of this forward (batch[\"label\"] is {fault}; whole numbers "
                f"among the model's arguments: {_names(arguments)}): {_STATE} ({described(StepView.of(forward))})."
            )
        if order != "same":
            self._refuse_unsure(arguments, order)
        return self._in_range(known), False

    def _in_range(self, labels: Tensor) -> Tensor:
        """The labels, if each is that of a trained class."""
        least, most = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
        if least < 0 or most >= self._classes:
            raise HookError(
                f"Labels run from {least} to {most}, but {self._classes} class names have the labels 0 to "
                f"{self._classes - 1}: give class_names of the classes that are trained, or {_STATE}."
            )
        return labels

    def _from_function(self, forward: Forward, size: int) -> Tensor:
        view = StepView.of(forward)
        found = asked("labels", self._stated, view)
        try:
            labels = integers(found, "labels")
        except FeatureError as error:
            raise HookError(f"labels= is of no use: {error}. What it was given: {described(view)}.") from error
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

    def _order(self, forward: Forward, labeled: bool, batches: Sequence[Any], size: int) -> str:
        """How the model's images relate to those of the first batch, if that is ``labeled``; see :func:`_order`.

        Images that are those of another argument of ``forward_backward`` (an unlabeled batch) are ``foreign``.
        """
        given = [leaf for leaf in tree_leaves([*forward.inputs, forward.keywords]) if _is_images(leaf, size)]

        def orders(of: Sequence[Any]) -> set[str]:
            return {_order(image, theirs) for batch in of for theirs in _images(batch, size) for image in given}

        own = orders(batches[:labeled])
        for order in ("same", "other"):
            if order in own:
                return order
        return "foreign" if orders(batches[labeled:]) - {"unknown"} else "unknown"

    def _refuse_unsure(self, arguments: Mapping[str, Tensor], order: str) -> None:
        """Raise HookError where something says that ``batch["label"]`` are not the labels of the model's images."""
        if order == "other":
            raise HookError(
                "The model was given the batch's images in another order than the batch's and no labels, so "
                f'batch["label"] would be wrong: {_STATE}.'
            )
        if order == "foreign":
            raise HookError(
                'The model was given the images of another batch than the one with batch["label"] (an unlabeled one), '
                f"and no labels: {_FIRST_LABELED}, or {_STATE}."
            )
        if arguments:
            raise HookError(
                f"It cannot be told whether {_names(arguments)} of the model's arguments are labels: they do not equal "
                f"batch[\"label\"], and the model's images are not the batch's as they are: {_STATE}."
            )
        if not self._told:
            self._told = True
            LOG.info(
                'labels are batch["label"]; the model is given other images than the batch\'s (changed on the '
                "device?), so that they are in its order is taken on trust"
            )


def _labels_of(batch: Any, size: int) -> tuple[Tensor | None, str]:
    """A batch's (B,) labels, else None and why."""
    labels = batch.get("label") if isinstance(batch, Mapping) else _only_whole_numbers(batch, size)
    if labels is None:
        return None, "missing"
    try:
        numbers = integers(labels, "labels")
    except FeatureError as error:
        return None, f"of no use: {error}"
    numbers = numbers[:, 0] if numbers.shape == (size, 1) else numbers
    return (numbers, "") if numbers.shape == (size,) else (None, f"of shape {shape_of(numbers)}")


def _only_whole_numbers(batch: Any, size: int) -> Tensor | None:
    """The only (B,) int64 tensor of a batch that is a tuple or list."""
    elements = batch if isinstance(batch, (tuple, list)) else ()
    found = [e for e in elements if isinstance(e, Tensor) and e.dtype == torch.long and e.shape == (size,)]
    return found[0] if len(found) == 1 else None


def _names(arguments: Mapping[str, Tensor]) -> str:
    return ", ".join(arguments) or "none"


def _is_images(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and len(value) == size


def _images(batch: Any, size: int) -> list[Tensor]:
    values = batch.get("img", dict(batch)) if isinstance(batch, Mapping) else batch
    return [leaf for leaf in tree_leaves(values) if _is_images(leaf, size)]


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
