"""Notes what a training step's forwards give, through forward hooks on module instances.

The taps are open only inside an armed step (``forward_backward``) and, there, only while ``trainer.model``
itself runs with gradients on: evaluation, inner trainers, teachers and copies of the model pass unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from cpt_plugin._generators import generators_kept
from cpt_plugin.errors import HookError


class CopiesRun:
    """Counts forwards, with gradients on, of copies of modules that carry taps; whose copies is not known."""

    count = 0


class _Tap:
    """A forward hook for one module instance; on a copy of the module it only counts."""

    def __init__(self, module: nn.Module | None = None, action: Callable[..., Any] | None = None) -> None:
        self._module = module
        self._action = action

    def __call__(self, module: nn.Module, *values: Any) -> Any:
        if self._action is None or module is not self._module:
            CopiesRun.count += torch.is_grad_enabled()
            return None
        return self._action(*values)

    def __reduce__(self) -> tuple[type[_Tap], tuple[()]]:
        return _Tap, ()


@dataclass
class Call:
    """One call of an encoder inside a recorded forward: its raw output, and whether gradients were on."""

    output: Any
    gradients_on: bool

    @property
    def carries_gradient(self) -> bool:
        """Whether a tensor of its output requires a gradient."""
        return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(self.output))


@dataclass
class Forward:
    """What one forward of the model has shown.

    Attributes:
        inputs, keywords: the model's positional and keyword arguments.
        calls: calls of the encoders, by kind ("text", "image"), in order.
        marked: in a forward of :meth:`Taps.traced`, the image features, to which all that was made of them leads back.
        output: what the model returned.
    """

    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]
    calls: dict[str, list[Call]] = field(default_factory=lambda: {"text": [], "image": []})
    marked: Tensor | None = None
    output: Any = None

    def outputs(self, kind: str) -> list[Any]:
        """Raw outputs of the calls that carry a gradient; of those with gradients on where none does, else of all."""
        calls = self.calls[kind]
        chosen = [c for c in calls if c.carries_gradient] or [c for c in calls if c.gradients_on] or calls
        return [call.output for call in chosen]


class _Mark(torch.autograd.Function):
    """Features unchanged in value that require a gradient, whether or not those given do."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, anchor: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


class Taps:
    """Taps on the model and its two encoders.

    encoders: the modules whose outputs are text and image features, by kind; absent kinds are not tapped.
    on_forward: called with each recorded forward at its end; what it returns takes the place of the model's output.
    first_only: record the first forward of a step only.

    Attributes:
        without_gradient: kinds whose features had no gradient in this step, as ``on_forward`` found; a later call with
            one is then refused.
    """

    def __init__(
        self,
        model: nn.Module,
        encoders: Mapping[str, nn.Module],
        on_forward: Callable[[Forward], Any],
        first_only: bool = False,
    ) -> None:
        self._model = model
        self._encoders = encoders
        self._on_forward = on_forward
        self._first_only = first_only
        self._handles: list[RemovableHandle] = []
        self._armed = False
        self._recorded = 0
        self._forward: Forward | None = None
        self._tracing = False
        self.without_gradient: set[str] = set()

    def install(self) -> None:
        """Put forward hooks on the model and its encoders; they do nothing outside :meth:`armed`."""
        model = self._model
        for kind, encoder in self._encoders.items():
            self._handles.append(encoder.register_forward_hook(_Tap(encoder, self._encoder_action(kind))))
        self._handles.append(model.register_forward_pre_hook(_Tap(model, self._before_model), with_kwargs=True))
        self._handles.append(model.register_forward_hook(_Tap(model, self._after_model)))

    def remove(self) -> None:
        """Take these hooks off again, and no others; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Open the taps for one training step."""
        self._armed, self._recorded = True, 0
        try:
            yield
        finally:
            self._armed, self._forward = False, None
            self.without_gradient.clear()

    def _before_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorded = self._armed and torch.is_grad_enabled() and not (self._first_only and self._recorded)
        self._forward = Forward(args, kwargs) if recorded else None

    def _encoder_action(self, kind: str) -> Callable[[tuple[Any, ...], Any], Any]:
        def record(args: tuple[Any, ...], output: Any) -> Any:
            if self._forward is not None:
                return self._record(self._forward, kind, output)
            if self._armed and kind in self.without_gradient and getattr(output, "requires_grad", False):
                raise HookError(
                    f"The {kind} encoder gave features without gradient inside the model's forward and with "
                    "gradient outside it, as reentrant activation checkpointing does, so the regularizer "
                    "would not reach the prompts: use torch.utils.checkpoint with use_reentrant=False, or "
                    "no checkpointing."
                )
            return None

        return record

    def _record(self, forward: Forward, kind: str, output: Any) -> Tensor | None:
        """Note a call; returns what is to take the place of its output, None for itself."""
        forward.calls[kind].append(Call(output, torch.is_grad_enabled()))
        if kind == "text" or not self._tracing or not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        with torch.enable_grad():
            forward.marked = _Mark.apply(output, torch.zeros((), requires_grad=True))
        return forward.marked

    def traced(self, forward: Forward) -> Forward:
        """The same forward once more, beside the training: all that comes from its image features can be traced.

        Random number generators and buffers are put back; its output is thrown away.
        """
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        again = self._forward = Forward(forward.inputs, forward.keywords)
        self._tracing = True
        try:
            with generators_kept():
                self._model.forward(*forward.inputs, **forward.keywords)
        finally:
            self._tracing, self._forward = False, None
            for name, buffer in self._model.named_buffers():
                if name in buffers and not torch.equal(buffer, buffers[name]):
                    buffer.data.copy_(buffers[name])
        return again

    def _after_model(self, args: tuple[Any, ...], output: Any) -> Any:
        forward, self._forward = self._forward, None
        if forward is None:
            return None
        self._recorded += 1
        forward.output = output
        return self._on_forward(forward)
