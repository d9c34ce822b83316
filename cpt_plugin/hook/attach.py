"""Adds a loss to a model's output without the trainer knowing: an identity that injects a gradient.

For a main loss L and a regularizer R the parameters must receive s dL + s dR, where s is whatever multiplies
the main loss on its way to ``backward()`` (AMP loss scale, 1/accumulation). :func:`attach_loss` passes the
output on unchanged and, when its gradient arrives, hands s to R as R's own gradient.

Idea: Megatron-LM's ``MoEAuxLossAutoScaler`` attaches auxiliary losses to activations in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from cpt_plugin.errors import HookError

Outputs = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]
Observer = Callable[[Outputs, Outputs, Tensor], None]
Multiplier = Callable[[Outputs, Gradients, Tensor], Tensor]


class Attachment:
    """One loss attached to one model's output; counts how often its gradient was asked for.

    ``multiplier`` gives that of the main loss from the outputs, the gradients that arrived on them (None where nothing
    did), and the loss. ``observe``, if given, is called once, before the loss is back-propagated, with the outputs, the
    gradients that reached them, and the multiplier. ``only``: the loss goes with the back-propagation of that number,
    counted from 1; 0 allows one, and of a loss that the model returned itself any number, each with its multiplier.
    While ``muted``, gradients pass as if the loss were not there.

    Attributes:
        fired: how often the gradient was asked for.
        done: whether the loss was back-propagated.
    """

    def __init__(
        self, multiplier: Multiplier, outputs: Outputs, observe: Observer | None = None, only: int = 0
    ) -> None:
        self.fired = 0
        self.done = False
        self.muted = False
        self._multiplier = multiplier
        self._only = only
        self._released = False
        self._observe = observe
        self._outputs = outputs

    def loss_gradient(self, gradients: Gradients, loss: Tensor) -> Tensor | None:
        """The multiplier of the main loss, None for nothing; ``gradients`` are those that reached the outputs."""
        if self._released:
            raise HookError(
                "The output of an earlier training step was back-propagated once that step was over, so the "
                "regularizer cannot be multiplied as its loss is: use CPTLoss in such a training loop."
            )
        self.fired += 1
        if self._only and self.fired != self._only:
            return None
        arrived = [(o, g) for o, g in zip(self._outputs, gradients, strict=True) if g is not None]
        if self.done and not (len(arrived) == 1 and is_scalar_loss(arrived[0][0])):
            raise HookError(
                "The model's output was back-propagated more than once in one step, so the regularizer would be "
                'counted twice: CPTHook(backward="first") or "second" adds it to that of these passes whose gradient '
                "trains (in the runner --backward first)."
            )
        multiplier = self._multiplier(self._outputs, gradients, loss)
        self.done = True
        observe, self._observe = self._observe, None
        if observe is not None:
            observe(tuple(o for o, _ in arrived), tuple(g for _, g in arrived), multiplier)
        return multiplier

    def release(self) -> None:
        """Let go of the model's outputs, once their step is over."""
        self._released, self._outputs, self._observe = True, (), None


class _Inject(torch.autograd.Function):
    """(loss, outputs) -> outputs; backward gives the loss the gradient that ``attachment`` decides on."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, attachment: Attachment, *outputs: Tensor) -> Outputs:
        ctx.attachment = attachment
        ctx.like_loss = loss.detach()
        ctx.set_materialize_grads(False)
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.attachment.muted or all(gradient is None for gradient in gradients):
            return None, None, *gradients
        return ctx.attachment.loss_gradient(gradients, ctx.like_loss), None, *gradients


def attach_loss(output: Any, loss: Tensor, multiplier: Multiplier, **options: Any) -> tuple[Any, Attachment]:
    """Attach a scalar ``loss`` to a model's output and return that output, unchanged in value.

    output: a scalar loss (shape () or (1,)), logits of any other shape, or tuples, lists and dictionaries of such, of
    which all tensors that require a gradient are used.
    multiplier, options: see :class:`Attachment`.

    Raises HookError if nothing in the output can carry the gradient.
    """
    leaves, structure = tree_flatten(output)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not places:
        raise HookError(
            f"The model returned {describe_output(output)}, to which no gradient can be attached: a hook needs a "
            "scalar loss, logits, or a tuple, list or dictionary with at least one tensor that requires a gradient; "
            "in a training loop of your own, CPTLoss needs none."
        )
    tensors = tuple(leaves[i] for i in places)
    attachment = Attachment(multiplier, tensors, **options)
    for i, injected in zip(places, _Inject.apply(loss, attachment, *tensors), strict=True):
        leaves[i] = injected
    return tree_unflatten(leaves, structure), attachment


def is_scalar_loss(output: Any) -> bool:
    """Whether a model's output is the loss itself rather than logits or a tuple."""
    return isinstance(output, Tensor) and output.dim() <= 1 and output.numel() == 1


def describe_output(output: Any) -> str:
    """Says what a model returned, for error messages: a tensor's shape and gradient, else its type."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)} with requires_grad={output.requires_grad}"
    return f"a {type(output).__name__}"
