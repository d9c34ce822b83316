"""Adds a loss to a model's output without the trainer knowing: an identity that injects a gradient.

For a main loss L and a regularizer R the parameters must receive s dL + s dR, where s is whatever multiplies
the main loss on its way to ``backward()`` (AMP loss scale, 1/accumulation). :func:`attach_loss` passes the
output on unchanged and, when its gradient arrives, hands s to R as R's own gradient.

Idea: Megatron-LM's ``MoEAuxLossAutoScaler`` attaches auxiliary losses to activations in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.errors import HookError

Outputs = tuple[Tensor, ...]
Observer = Callable[[Outputs, Outputs, Tensor], None]


class Attachment:
    """One loss attached to one model's output; counts how often its gradient was asked for.

    ``scale`` maps the loss to the multiplier of the main loss; None means that the output is itself the
    loss, whose incoming gradient is that multiplier. ``observe``, if given, is called once, before the loss is
    back-propagated, with the outputs, the gradients that reached them, and that multiplier. While ``muted``, gradients
    pass as if the loss were not there.
    """

    def __init__(self, scale: Callable[[Tensor], Tensor] | None, observe: Observer | None, outputs: Outputs) -> None:
        self.scale = scale
        self.fired = 0
        self.muted = False
        self._observe = observe
        self._outputs = outputs if observe is not None else ()

    def loss_gradient(self, gradients: Outputs, loss: Tensor) -> Tensor:
        """The multiplier of the main loss; ``gradients`` are those that reached the outputs."""
        multiplier = self._multiplier(gradients[0], loss)
        if self._observe is not None:
            observe, outputs = self._observe, self._outputs
            self._observe, self._outputs = None, ()
            observe(outputs, gradients, multiplier)
        return multiplier

    def _multiplier(self, gradient: Tensor, loss: Tensor) -> Tensor:
        self.fired += 1
        if self.scale is None:
            return gradient.reshape(()).to(loss.dtype)
        if self.fired > 1:
            raise HookError(
                "The model's output was back-propagated more than once in one step, so the regularizer "
                "would be counted twice: sum the losses and call backward() once, or let the model return a "
                "scalar loss."
            )
        return self.scale(loss)


class _Inject(torch.autograd.Function):
    """(loss, outputs) -> outputs; backward gives the loss the gradient that ``attachment`` decides on."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, attachment: Attachment, *outputs: Tensor) -> Outputs:
        ctx.attachment = attachment
        ctx.like_loss = loss.detach()
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.attachment.muted:
            return None, None, *gradients
        return ctx.attachment.loss_gradient(gradients, ctx.like_loss), None, *gradients


def attach_loss(
    output: Any, loss: Tensor, output_scale: Callable[[Tensor], Tensor], observe: Observer | None = None
) -> tuple[Any, Attachment]:
    """Attach a scalar ``loss`` to a model's output and return that output, unchanged in value.

    output: a scalar loss (shape () or (1,)), logits of any other shape, or a tuple or list, of which the
    first tensor that requires a gradient is used. For all but the scalar loss ``output_scale(loss)`` gives
    the multiplier of the main loss at the time of the backward pass.
    observe: called in the backward pass, see :class:`Attachment`; of a tuple or list it is given all tensors that
    require a gradient.

    Raises HookError if nothing in the output can carry the gradient.
    """
    if isinstance(output, Tensor) and output.requires_grad:
        attachment = Attachment(None if is_scalar_loss(output) else output_scale, observe, (output,))
        return _Inject.apply(loss, attachment, output)[0], attachment
    if isinstance(output, (tuple, list)):
        places = [i for i, element in enumerate(output) if isinstance(element, Tensor) and element.requires_grad]
        if places := places if observe is not None else places[:1]:
            tensors = tuple(output[i] for i in places)
            attachment = Attachment(output_scale, observe, tensors)
            injected = dict(zip(places, _Inject.apply(loss, attachment, *tensors), strict=True))
            return _same_container(output, [injected.get(i, element) for i, element in enumerate(output)]), attachment
    raise HookError(
        f"The model returned {describe_output(output)}, to which no gradient can be attached: return a "
        "scalar loss, logits, or a tuple with at least one tensor that requires a gradient."
    )


def is_scalar_loss(output: Any) -> bool:
    """Whether a model's output is the loss itself rather than logits or a tuple."""
    return isinstance(output, Tensor) and output.dim() <= 1 and output.numel() == 1


def describe_output(output: Any) -> str:
    """Says what a model returned, for error messages: a tensor's shape and gradient, else its type."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)} with requires_grad={output.requires_grad}"
    return f"a {type(output).__name__}"


def _same_container(original: tuple[Any, ...] | list[Any], elements: list[Any]) -> Any:
    if hasattr(original, "_make"):
        return original._make(elements)
    return elements if isinstance(original, list) else type(original)(elements)


class OutputScale:
    """Multiplier of the main loss where the model returns logits or a tuple: GradScaler / accumulation.

    ``trainer.scaler`` is read when the gradient arrives, without waiting for the device. ``accumulation`` is
    the number by which the trainer divides its loss; None means that it does not, which is refused as soon
    as the trainer's configuration or attributes say otherwise.
    """

    def __init__(self, trainer: Any, accumulation: int | None) -> None:
        self._trainer = trainer
        self._accumulation = accumulation

    def __call__(self, loss: Tensor) -> Tensor:
        scale = torch.ones_like(loss)
        scaler = getattr(self._trainer, "scaler", None)
        if scaler is not None:
            scale = scaler.scale(scale).to(loss.dtype)
        return scale / (self._accumulation or 1)

    def check(self) -> None:
        """Raise HookError if the trainer accumulates gradients and the divisor was not stated."""
        if self._accumulation is not None:
            return
        for key, value in _accumulation_settings(self._trainer):
            raise HookError(
                f"The trainer accumulates gradients ({key} = {value}) and its model does not return a scalar "
                "loss, so the scale of the regularizer is unknown: state what the loss is divided by, "
                f"CPTHook(..., accumulation={value}), or accumulation=1 if it is not divided."
            )


def _accumulation_settings(trainer: Any) -> Iterator[tuple[str, Any]]:
    """Numbers above 1 under names with "accum" in the trainer's attributes and its ``cfg``."""
    attributes = getattr(trainer, "__dict__", {})
    yield from _accumulations({k: v for k, v in attributes.items() if not isinstance(v, Mapping)}, "trainer")
    cfg = getattr(trainer, "cfg", None)
    yield from _accumulations(cfg if isinstance(cfg, Mapping) else getattr(cfg, "__dict__", {}), "cfg")


def _accumulations(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        where = f"{path}.{key}"
        if isinstance(value, Mapping):
            yield from _accumulations(value, where)
        elif "accum" in str(key).lower() and isinstance(value, (int, float)) and value > 1:
            yield where, value
