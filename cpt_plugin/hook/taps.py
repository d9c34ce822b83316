"""Reads the encoder outputs and the labels of a training step through forward hooks on module instances.

The taps are open only inside an armed step (``forward_backward``) and, there, only while ``trainer.model``
itself runs with gradients on: evaluation, inner trainers, teachers and copies of the model pass unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cpt_plugin.errors import FeatureError, HookError
from cpt_plugin.functional._checks import integers, shape_of
from cpt_plugin.functional._normalize import working_dtype
from cpt_plugin.regularizers import FeatureBatch

_REPEATED = (
    "Possible causes are activation checkpointing around the encoder, torch.compile, or a second pass in "
    "the same forward. Run the encoder once per forward, and additional passes outside the model's forward."
)


class _Tap:
    """A forward hook for one module instance; on a copy of the module it does nothing."""

    def __init__(self, module: nn.Module | None = None, action: Callable[..., Any] | None = None) -> None:
        self._module = module
        self._action = action

    def __call__(self, module: nn.Module, *values: Any) -> Any:
        if self._action is None or module is not self._module:
            return None
        return self._action(*values)

    def __reduce__(self) -> tuple[type[_Tap], tuple[()]]:
        return _Tap, ()


class _Recording:
    """What one forward of the model has shown so far."""

    def __init__(self, arguments: list[Any]) -> None:
        self.arguments = arguments
        self.outputs: dict[str, list[Tensor]] = {"text": [], "image": []}


class Taps:
    """Taps on ``model.text_encoder``, ``model.image_encoder`` and ``model``.

    ``on_forward(features, output)`` is called at the end of each recorded forward of the model; what it
    returns takes the place of the model's output. Features are in float32 or higher, on the graph,
    un-normalised.
    """

    def __init__(self, model: nn.Module, on_forward: Callable[[FeatureBatch, Any], Any]) -> None:
        self._model = model
        self._on_forward = on_forward
        self._handles: list[RemovableHandle] = []
        self._armed = False
        self._batch: Any = None
        self._recording: _Recording | None = None
        self._without_gradient: set[str] = set()

    def install(self) -> None:
        """Put forward hooks on the model and its two encoders; they do nothing outside :meth:`armed`."""
        model = self._model
        for kind in ("text", "image"):
            encoder = getattr(model, f"{kind}_encoder")
            self._handles.append(encoder.register_forward_hook(_Tap(encoder, self._encoder_action(kind))))
        self._handles.append(
            model.register_forward_pre_hook(_Tap(model, self._before_model), with_kwargs=True)
        )
        self._handles.append(model.register_forward_hook(_Tap(model, self._after_model)))

    def remove(self) -> None:
        """Take these hooks off again, and no others; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def armed(self, batch: Any) -> Iterator[None]:
        """Open the taps for one training step on ``batch``."""
        self._armed, self._batch = True, batch
        try:
            yield
        finally:
            self._armed, self._batch, self._recording = False, None, None
            self._without_gradient.clear()

    def _before_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorded = self._armed and torch.is_grad_enabled()
        self._recording = _Recording([*args, *kwargs.values()]) if recorded else None

    def _encoder_action(self, kind: str) -> Callable[[tuple[Any, ...], Any], None]:
        def record(args: tuple[Any, ...], output: Any) -> None:
            if self._recording is not None:
                self._recording.outputs[kind].append(_feature_tensor(kind, output))
            elif self._armed and kind in self._without_gradient and getattr(output, "requires_grad", False):
                raise HookError(
                    f"The {kind} encoder gave features without gradient inside the model's forward and with "
                    "gradient outside it, as reentrant activation checkpointing does, so the regularizer "
                    "would not reach the prompts: use torch.utils.checkpoint with use_reentrant=False, or "
                    "no checkpointing."
                )

        return record

    def _after_model(self, args: tuple[Any, ...], output: Any) -> Any:
        recording, self._recording = self._recording, None
        if recording is None:
            return None
        image = _image_features(recording.outputs["image"])
        text = _text_features(recording.outputs["text"], len(image))
        self._without_gradient.update(
            kind for kind, feature in (("text", text), ("image", image)) if not feature.requires_grad
        )
        labels = _labels(recording.arguments, self._batch, len(image)).to(image.device)
        features = FeatureBatch(text=text.to(working_dtype(text)), image=image.to(working_dtype(image)), labels=labels)
        return self._on_forward(features, output)


def _feature_tensor(kind: str, output: Any) -> Tensor:
    if isinstance(output, Tensor) and output.is_floating_point():
        return output
    raise HookError(
        f"The {kind} encoder returned {type(output).__name__}, not a tensor of features: make "
        f"model.{kind}_encoder a module whose forward returns only its (n, d) features."
    )


def _image_features(outputs: list[Tensor]) -> Tensor:
    if not outputs:
        raise HookError(
            "The image encoder was never called in the model's forward: call it as self.image_encoder(...), "
            "not through .forward, a method or a compiled copy of it, inside the model's forward."
        )
    if len(outputs) > 1:
        raise HookError(f"The image encoder was called {len(outputs)} times in one forward. {_REPEATED}")
    if outputs[0].dim() != 2:
        raise HookError(
            f"The image encoder returned features of shape {tuple(outputs[0].shape)}: make it return one "
            "vector an image, (B, d)."
        )
    return outputs[0]


def _text_features(outputs: list[Tensor], batch_size: int) -> Tensor:
    """(K, d), or (B, K, d) where the encoder ran once for each image (CoCoOp)."""
    if not outputs:
        raise HookError(
            "The text encoder was never called in the model's forward, so there are no text features to "
            "regularize (methods without learned text prompts, such as VPT, compute them beforehand): use a "
            "method with text prompts, set all weights to 0, or call it as self.text_encoder(...) inside "
            "the model's forward."
        )
    if len(outputs) == 1:
        return outputs[0]
    if len(outputs) == batch_size and outputs[0].dim() == 2:
        return torch.stack(outputs)
    raise HookError(
        f"The text encoder was called {len(outputs)} times in one forward of {batch_size} images. "
        f"{_REPEATED} Only one call for each image, as in CoCoOp, is understood."
    )


def _labels(arguments: list[Any], batch: Any, batch_size: int) -> Tensor:
    """The first 1-D int64 argument of the forward with the batch's length, else ``batch["label"]``, of any integers."""
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.dtype == torch.long and argument.shape == (batch_size,):
            return argument
    labels, found = batch.get("label") if isinstance(batch, Mapping) else None, "missing"
    if labels is not None:
        try:
            numbers = integers(labels, "labels")
            if numbers.shape == (batch_size,):
                return numbers
            found = f"of shape {shape_of(numbers)}"
        except FeatureError as error:
            found = f"of no use: {error}"
    raise HookError(
        f"No labels for the {batch_size} image features of this forward (batch[\"label\"] is {found}): pass "
        f"a 1-D int64 tensor of {batch_size} labels to the model, self.model(image, label)."
    )
