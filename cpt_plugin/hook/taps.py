"""Notes what a training step's forwards give, through forward hooks on module instances.

The taps are open only inside an armed step (``forward_backward``) and, there, only while ``trainer.model``
itself runs with gradients on: evaluation, inner trainers, teachers and copies of the model pass unseen.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from cpt_plugin._generators import generators_kept
from cpt_plugin.errors import HookError

MOST_UNSEEN = 10
"""Forwards with gradients after which a training that has had no step is refused."""


class CopiesRun:
    """Counts forwards, with gradients on, of copies of modules that carry taps; whose copies is not known."""

    count = 0


class _Tap:
    """A forward hook for one module instance; on a copy of the module it only counts."""

    def __init__(self, module: nn.Module | None = None, action: Callable[..., Any] | None = None) -> None:
        self._module = module
        self._action = action

    def __call__(self, module: nn.Module, *values: Any) -> Any:
        if self._action is None:
            _forget(module, self)
        if self._action is None or module is not self._module:
            CopiesRun.count += torch.is_grad_enabled()
            return None
        return self._action(*values)

    def __reduce__(self) -> tuple[type[_Tap], tuple[()]]:
        return _Tap, ()


def _forget(copied: nn.Module, tap: _Tap) -> None:
    """Take the tap that came with a copy of a module off it."""
    for hooks in (copied._forward_hooks, copied._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if hook is tap]:
            del hooks[key]


@dataclass
class Call:
    """One call of an encoder inside a recorded forward: its raw output, and whether gradients were on.

    kept: the output's tensors as they were returned, with their versions, by ``id``.
    """

    returned: Any
    gradients_on: bool
    kept: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, output: Any) -> Call:
        """A call that returns ``output`` now."""
        on = torch.is_grad_enabled()
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        return cls(output, on, {id(leaf): (leaf.clone(), leaf._version) for leaf in tensors if on})

    @property
    def output(self) -> Any:
        """What was returned, with copies (in the graph) in place of tensors that were changed in place since.

        Without gradients it is the tensors themselves, to which reentrant checkpointing gives their gradient later.
        """
        return tree_map(self._as_returned, self.returned)

    def _as_returned(self, leaf: Any) -> Any:
        copied, version = self.kept.get(id(leaf), (leaf, 0))
        return leaf if copied is leaf or leaf._version == version else copied

    @property
    def carries_gradient(self) -> bool:
        """Whether a tensor of its output requires a gradient."""
        return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(self.returned))


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

    def note(self, kind: str, output: Any) -> None:
        """Keep what a call of an encoder returned, as it is now."""
        self.calls[kind].append(Call.of(output))

    def outputs(self, kind: str) -> list[Any]:
        """Raw outputs of the calls that carry a gradient; of those with gradients on where none does, else of all."""
        calls = self.calls[kind]
        chosen = [c for c in calls if c.carries_gradient] or [c for c in calls if c.gradients_on] or calls
        return [call.output for call in chosen]


def _tracing(forward: Forward, kind: str) -> Callable[..., Any]:
    """A forward hook that notes calls; image features are replaced by such that can be traced."""

    def record(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        forward.note(kind, output)
        if kind == "text" or not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        with torch.enable_grad():
            forward.marked = _Mark.apply(output, torch.zeros((), requires_grad=True))
        return forward.marked

    return record


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
        unseen: forwards with gradients, in training mode, before the first step.
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
        self._depth = 0
        self._recorded = 0
        self._forward: Forward | None = None
        self._stepped = False
        self.unseen = 0
        self.without_gradient: set[str] = set()

    def install(self) -> None:
        """Put forward hooks on the model and its encoders; they do nothing outside :meth:`armed`."""
        model = self._model
        for kind, encoder in self._encoders.items():
            self._handles.append(encoder.register_forward_hook(_Tap(encoder, self._encoder_action(kind))))
        self._handles.append(model.register_forward_pre_hook(_Tap(model, self._before_model), with_kwargs=True))
        self._handles.append(model.register_forward_hook(_Tap(model, self._after_model), always_call=True))

    def remove(self) -> None:
        """Take these hooks off again, and no others; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Open the taps for one training step."""
        self._armed, self._stepped, self._recorded, self._depth = True, True, 0, 0
        try:
            yield
        finally:
            self._armed, self._forward, self._depth = False, None, 0
            self.without_gradient.clear()

    def _before_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        recorded = self._armed and torch.is_grad_enabled() and not (self._first_only and self._recorded)
        self._forward = Forward(args, kwargs) if recorded else None

    def _encoder_action(self, kind: str) -> Callable[[tuple[Any, ...], Any], None]:
        def record(args: tuple[Any, ...], output: Any) -> None:
            if self._forward is not None:
                self._forward.note(kind, output)
            elif self._armed and kind in self.without_gradient and getattr(output, "requires_grad", False):
                raise HookError(
                    f"The {kind} encoder gave features without gradient inside the model's forward and with "
                    "gradient outside it, as reentrant activation checkpointing does, so the regularizer "
                    "would not reach the prompts: use torch.utils.checkpoint with use_reentrant=False, or "
                    "no checkpointing."
                )

        return record

    def traced(self, forward: Forward) -> Forward | None:
        """The same forward on a copy of the model, where all that comes from its image features leads back to them.

        The copy shares the parameters; random number generators are put back. None where the model cannot be copied.
        """
        paths = {id(module): path for path, module in self._model.named_modules()}
        shared: dict[int, Any] = {id(p): p for p in self._model.parameters()}
        ran = CopiesRun.count
        try:
            with generators_kept():
                model = copy.deepcopy(self._model, shared)
                again = Forward(forward.inputs, forward.keywords)
                for kind, encoder in self._encoders.items():
                    model.get_submodule(paths[id(encoder)]).register_forward_hook(_tracing(again, kind))
                model(*forward.inputs, **forward.keywords)
        except Exception:  # somebody else's model may not be made for copies, in any way
            return None
        finally:
            CopiesRun.count = ran
        return again

    def _after_model(self, args: tuple[Any, ...], output: Any) -> Any:
        self._depth -= 1
        if self._depth:
            return None
        forward, self._forward = self._forward, None
        if output is None and sys.exc_info()[0] is not None:  # the forward failed; this hook is called all the same
            return None
        if forward is None:
            self._count_unseen(output)
            return None
        self._recorded += 1
        forward.output = output
        return self._on_forward(forward)

    def _count_unseen(self, output: Any) -> None:
        """Refuse a training that runs the model, but never through ``forward_backward``."""
        if self._stepped or not self._model.training or not Call(output, True).carries_gradient:
            return
        self.unseen += 1
        if self.unseen >= MOST_UNSEEN:
            raise HookError(
                f"The model has run {self.unseen} times with gradients, and never inside trainer.forward_backward, so "
                "nothing was regularized: the trainer has a training loop of its own, or it calls a forward_backward "
                "that it kept from before the hook was attached. Attach the hook before that, or use CPTLoss in the "
                "loop."
            )
