"""Which tensors of a recorded forward are the text and image features, and what to say where that is not plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.errors import CPTError, HookError
from cpt_plugin.hook.taps import Forward

_STATED = "say which tensors they are in one line"
ROWS = 8
"""Images of a batch on which it is tried that each one's text features depend on itself alone."""


@dataclass(frozen=True)
class StepView:
    """What a ``features=`` or ``labels=`` function sees of one forward of the model.

    Attributes:
        text, image: raw outputs of the calls of the two encoders that carry a gradient, in order (all calls, where none
            does).
        inputs, keywords: the model's positional and keyword arguments.
        output: what the model returned.
    """

    text: list[Any]
    image: list[Any]
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any

    @classmethod
    def of(cls, forward: Forward) -> StepView:
        """The view of a recorded forward."""
        text, image = (forward.outputs(kind) for kind in ("text", "image"))
        return cls(text, image, forward.inputs, dict(forward.keywords), forward.output)


Stated = Callable[[StepView], Any]
"""A ``features=`` function: (text (K, d) or (B, K, d), image (B, d)); a ``labels=`` function: (B,) whole numbers."""


class Features:
    """Finds text features (K, d), or (B, K, d) where they depend on the image, and image features (B, d).

    frozen: (K, d) frozen text features, whose rows are in the order of the classes.
    stated: the ``features=`` function; None finds them: one call of either encoder that carries a gradient, or one call
        of the text encoder for each image, shown to depend on that image and on no other (CoCoOp).
    names: what the encoders are called, by kind.
    traced: runs a forward again such that dependence on the image features can be seen (:meth:`Taps.traced`).
    """

    def __init__(
        self,
        frozen: Tensor,
        stated: Stated | None,
        names: dict[str, str],
        traced: Callable[[Forward], Forward | None],
    ) -> None:
        self._frozen = frozen
        self._classes, self._width = frozen.shape
        self._stated = stated
        self._names = names
        self._traced = traced
        self._depends = False

    def __call__(self, forward: Forward) -> tuple[Tensor, Tensor]:
        """(text, image) of a recorded forward.

        Raises HookError, with the line that states them, where they are not plain or of other shapes.
        """
        view = StepView.of(forward)
        if self._stated is not None:
            return self._checked(*self._from_function(view), view)
        image = self._image(view)
        return self._checked(self._text(view, len(image), forward), image, view)

    def _from_function(self, view: StepView) -> tuple[Tensor, Tensor]:
        found = asked("features", self._stated, view)
        if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(map(_is_features, found)):
            raise HookError(
                f"features= returned {_shown(found)}: return two floating-point tensors, text (K, d) or (B, K, d) and "
                f"image (B, d). What it was given: {described(view)}."
            )
        return found[0], found[1]

    def _image(self, view: StepView) -> Tensor:
        if not view.image:
            raise self._refusal(
                f"The image encoder ({self._names['image']}) was never called in the model's forward", view
            )
        if len(view.image) > 1:
            raise self._refusal(f"The image encoder was called {len(view.image)} times in one forward", view)
        if not _is_features(view.image[0]):
            raise self._refusal(f"The image encoder returned {_shown(view.image[0])}, not a tensor of features", view)
        return view.image[0]

    def _text(self, view: StepView, batch_size: int, forward: Forward) -> Tensor:
        if not view.text:
            raise self._refusal(
                f"The text encoder ({self._names['text']}) was never called in the model's forward, so there are no "
                "text features to regularize (methods without learned text prompts, such as VPT, compute them "
                "beforehand): use a method with text prompts, set all weights to 0, or",
                view,
            )
        for output in view.text:
            if not _is_features(output):
                raise self._refusal(f"The text encoder returned {_shown(output)}, not a tensor of features", view)
        if len(view.text) == 1 and view.text[0].dim() != 3:
            return view.text[0]
        each = view.text if len(view.text) > 1 else list(view.text[0])
        one_a_class = (self._classes, self._width)
        fits = len(each) == batch_size and all(text.shape == one_a_class for text in each)
        if fits and (batch_size == 1 or self._is_of_each_image(forward, batch_size)):
            return torch.stack(view.text) if len(view.text) > 1 else view.text[0]
        if len(view.text) == 1:
            raise self._refusal(
                f"The text encoder returned features of shape {tuple(view.text[0].shape)} in one forward of "
                f"{batch_size} images, which are not shown to be those of each image",
                view,
            )
        raise self._refusal(
            f"The text encoder was called {len(view.text)} times in one forward of {batch_size} images, and the calls "
            "are not shown to be one for each image, as in CoCoOp (other causes are activation checkpointing around "
            "the encoder, torch.compile, or a second pass in the same forward)",
            view,
        )

    def _is_of_each_image(self, forward: Forward, batch_size: int) -> bool:
        """Whether text features depend on their own image's features and on no others', as the first rows show."""
        if not self._depends:
            again = self._traced(forward)
            outputs, image = (again.outputs("text"), again.marked) if again else ([], None)
            each = list(outputs[0]) if len(outputs) == 1 else outputs
            self._depends = (
                again is not None
                and image is not None
                and len(again.calls["image"]) == 1
                and len(each) == len(image) == batch_size
                and _depend_on_own_rows(each[:ROWS], image)
            )
        return self._depends

    def _checked(self, text: Tensor, image: Tensor, view: StepView) -> tuple[Tensor, Tensor]:
        """The features, if their shapes fit the frozen text features."""
        shapes = f"{self._classes} classes of {self._width} dimensions"
        source = "The encoders" if self._stated is None else "features="
        if image.dim() != 2:
            raise self._refusal(
                f"{source} returned image features of shape {tuple(image.shape)}, not one vector an image, (B, d)", view
            )
        if image.shape[1] != self._width:
            raise self._refusal(
                f"Image features have {image.shape[1]} dimensions, the frozen text features {self._width}: give "
                "frozen_text from the same CLIP model, or",
                view,
            )
        one_a_class = (self._classes, self._width)
        if tuple(text.shape) not in (one_a_class, (len(image), *one_a_class)):
            raise self._refusal(
                f"Text features have shape {tuple(text.shape)}, but the frozen text features have {shapes}: give "
                "frozen_text and class_names of the classes and the CLIP model that this trainer trains on (features "
                "of each image are (B, K, d)), or",
                view,
            )
        return text, image

    def _refusal(self, problem: str, view: StepView) -> HookError:
        """The problem, the line that states the features, filled in with what was seen, and what that was."""
        joint = " " if problem.endswith(" or") else ": "
        line = self._suggestion(view)
        note = " (the mean is for several prompts of each class; features of each image are (B, K, d))"
        return HookError(
            f"{problem}{joint}{_STATED}, e.g. CPTHook(features=lambda step: {line}), in the runner --features "
            f"FILE.py:NAME{note * ('.mean(' in line)}. In this forward: {described(view)}."
        )

    def _suggestion(self, view: StepView) -> str:
        """An expression for (text, image) with the shapes that were seen."""
        text = self._guess(view, "text", self._text_expressions) or "step.text[0]"
        image = self._guess(view, "image", self._image_expressions) or "step.image[0]"
        return f"({text}, {image})"

    def _guess(self, view: StepView, kind: str, expressions: Callable[[str, Tensor], dict[str, Tensor]]) -> str:
        """The expression whose value is most like the frozen text features, row by row; images: the first that fits."""
        for name in (kind, "output"):
            found: dict[str, Tensor] = {}
            for place, tensor in _tensors(f"step.{name}", getattr(view, name)):
                found |= expressions(place, tensor.detach())
            if kind == "text" and found:
                return max(found, key=lambda place: self._likeness(found[place]))
            if found:
                return next(iter(found))
        return ""

    def _likeness(self, text: Tensor) -> float:
        ours, theirs = (features.double().cpu() for features in (text, self._frozen))
        return float(torch.nn.functional.cosine_similarity(ours, theirs).mean())

    def _text_expressions(self, place: str, tensor: Tensor) -> dict[str, Tensor]:
        classes, width = self._classes, self._width
        if tensor.shape == (classes, width):
            return {place: tensor}
        if tensor.dim() == 3 and tensor.shape[1:] == (classes, width):
            return {f"{place}.mean(0)": tensor.mean(0)}
        if tensor.dim() == 2 and tensor.shape[1] == width and len(tensor) and len(tensor) % classes == 0:
            prompts = len(tensor) // classes
            return {
                f"{place}.view({prompts}, {classes}, {width}).mean(0)": tensor.view(prompts, classes, width).mean(0),
                f"{place}.view({classes}, {prompts}, {width}).mean(1)": tensor.view(classes, prompts, width).mean(1),
            }
        return {}

    def _image_expressions(self, place: str, tensor: Tensor) -> dict[str, Tensor]:
        if tensor.dim() == 2 and tensor.shape[1] == self._width:
            return {place: tensor}
        if tensor.dim() == 3 and tensor.shape[2] == self._width:
            return {f"{place}[:, 0]": tensor}
        return {}


def asked(option: str, function: Stated | None, view: StepView) -> Any:
    """What the function of an option returns for a view.

    Raises HookError, with what it was given, where it fails; an error of this package as it is.
    """
    assert function is not None
    try:
        return function(view)
    except CPTError:
        raise
    except Exception as error:  # somebody's own function may fail in any way
        raise HookError(
            f"{option}= failed with {type(error).__name__}: {error}. What it was given: {described(view)}."
        ) from error


def described(view: StepView) -> str:
    """What a view holds, with shapes: ``step.text = [(6, 5), (6, 5)], step.image = [(7, 5)], step.output = (7, 6)``."""
    held = ((name, getattr(view, name)) for name in ("text", "image", "inputs", "output"))
    return ", ".join(f"step.{name} = {_shown(value)}" for name, value in held)


def _is_features(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _shown(value: Any, depth: int = 0) -> str:
    """A tensor's shape, a container's contents, else the type."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape)) if value.dim() else "a scalar"
    if isinstance(value, (list, tuple)) and depth < 3:
        inside = ", ".join(_shown(element, depth + 1) for element in value[:8]) + ", ..." * (len(value) > 8)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return f"a {type(value).__name__}"


def _tensors(place: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Floating-point tensors in nested lists and tuples, with the expressions that reach them."""
    if _is_features(value):
        yield place, value
    elif isinstance(value, (list, tuple)):
        for index, element in enumerate(value):
            yield from _tensors(f"{place}[{index}]", element)


def _depend_on_own_rows(texts: list[Tensor], image: Tensor) -> bool:
    """Whether the i-th text features have no gradient on image features (B, d) but on row i, and some have one there.

    A row may be without (a small network of rectified units can be dead for an image), not all of them.
    """
    reached = [_rows_reached(text, image) for text in texts]
    return all(rows <= {own} for own, rows in enumerate(reached)) and any(reached)


def _rows_reached(text: Tensor, image: Tensor) -> set[int]:
    """Rows of the image features (B, d) on which text features have a gradient."""
    if not text.requires_grad:
        return set()
    direction = torch.linspace(-1, 1, text.numel(), dtype=text.dtype, device=text.device).view_as(text)
    try:
        (gradient,) = torch.autograd.grad(text, image, direction, retain_graph=True, allow_unused=True)
    except RuntimeError:  # reentrant activation checkpointing hides what the features depend on
        return set()
    return set() if gradient is None else set(gradient.abs().amax(dim=1).nonzero().flatten().tolist())
