"""Weights of loss parts from gradient norms: each part pulls on the prompts with a set fraction of the main loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.errors import HookError

LOG = logging.getLogger("cpt_plugin")
FLOOR = 1e-3
"""A part whose gradient norm is below this fraction of the main loss's counts as having no gradient yet."""


@dataclass(frozen=True)
class Target:
    """What a part's gradient norm is to be, as a fraction of the main loss's; momentum 1 keeps the first norms."""

    fraction: float
    momentum: float = 1.0


class GradientBalance:
    r"""Factors of loss parts such that the gradient of each on the trained parameters has a set relative norm.

    .. math::
        a_i = \rho_i \lVert \nabla L \rVert / \lVert \nabla R_i \rVert

    with L the main loss, as far as its gradient comes through the model's output, R_i an unweighted part, rho_i its
    fraction, and norms, in float64, over all parameters of the trainer's registered models that require a gradient.
    The norms are those of the first step in which the part has a gradient of its usual size, or, with a momentum
    m < 1, running averages n <- m n + (1 - m) n_t from that step on. Until then the part adds nothing: a part at or
    near its minimum (:data:`FLOOR`), or one that its regularizer calls undeveloped, as CPT does the rotation term
    where prompts start at the template. A weight from so small a norm would be far too large a few steps later.

    The first step costs one more backward pass for the main loss and one for each part; with m < 1 every step does,
    and waits for the device.

    trainer: whose registered models (``_models`` as in Dassl, else ``model``) are trained.

    Source: ours; GradNorm (ICML 2018, arXiv 1711.02257) trains such weights.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._targets: dict[str, Target] = {}
        self._norms: dict[str, tuple[float, float]] = {}
        self._waiting: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def want(self, name: str, target: Target) -> None:
        """Balance the part of that name."""
        self._targets[name] = target

    @property
    def pending(self) -> bool:
        """Whether norms are wanted of the next step."""
        return any(name not in self._norms or target.momentum < 1 for name, target in self._targets.items())

    @property
    def factors(self) -> dict[str, float]:
        """Factor of every part; 0 for one that has had no gradient yet."""
        return {name: self.factor(name) for name in self._targets}

    def factor(self, name: str) -> float:
        """The part's factor now."""
        if name not in self._norms:
            return 0.0
        main, own = self._norms[name]
        return self._targets[name].fraction * main / own

    def observe(
        self,
        parts: Mapping[str, Tensor],
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor],
        scale: Tensor,
        where: str,
    ) -> None:
        """Set the factors that are wanted, in the backward pass of a step.

        Args:
            parts: unweighted parts of this step that have a gradient of their usual size.
            outputs, gradients: what the model returned, and the main loss's gradients on it, multiplied by ``scale``.
            scale: multiplier of the main loss (AMP, accumulation); under it the parts are differentiated too.
            where: the step, for the log.

        Raises:
            HookError: gradients cannot be taken twice here (reentrant activation checkpointing).
        """
        wanted = [n for n, t in self._targets.items() if n in parts and (n not in self._norms or t.momentum < 1)]
        for name in self._targets.keys() - parts.keys() - self._norms.keys():
            self._wait(name, f"{where}: part {name} has not yet a gradient of its usual size")
        if not wanted:
            return
        parameters = trained_parameters(self._trainer)
        try:
            of_main = torch.autograd.grad(outputs, parameters, gradients, retain_graph=True, allow_unused=True)
            main = _norm(of_main, scale)
            norms = [gradient_norm(parts[name], parameters, scale) for name in wanted]
        except RuntimeError as error:
            raise HookError(
                f"Balanced weights need the gradient of each loss part by itself, which this model does not allow "
                f"({str(error).splitlines()[0]}): use torch.utils.checkpoint with use_reentrant=False or none, or "
                "weights as printed (CPT.WEIGHTING printed)."
            ) from error
        length, *lengths = torch.stack([main, *norms]).tolist()
        for name, own in zip(wanted, lengths, strict=True):
            self._take(name, length, own, where)

    def _take(self, name: str, main: float, own: float, where: str) -> None:
        usable = math.isfinite(main) and math.isfinite(own) and main > 0 and own >= FLOOR * main
        found = f"{where}: gradient norms {main:.4g} of the main loss, {own:.4g} of part {name}"
        if name in self._norms:
            if usable:
                momentum = self._targets[name].momentum
                old = self._norms[name]
                pairs = zip(old, (main, own), strict=True)
                averaged, of_part = (momentum * before + (1 - momentum) * now for before, now in pairs)
                self._norms[name] = averaged, of_part
        elif usable:
            self._norms[name] = main, own
            LOG.info(f"balanced weights, {found}, so its weight is {self.factor(name):.4g}")
        else:
            self._wait(name, found)

    def _wait(self, name: str, found: str) -> None:
        if name not in self._waiting:
            self._waiting.add(name)
            LOG.info(f"balanced weights, {found}; it adds nothing, and its weight is set at the first step that allows")

    def close(self) -> None:
        """Say which parts have never had a gradient."""
        if never := [name for name in self._targets if name in self._waiting and name not in self._norms]:
            LOG.warning(f"balanced weights: {', '.join(never)} never had a gradient to speak of and added nothing")

    def state_dict(self) -> dict[str, list[float]]:
        """Part name -> norms of the main loss's gradient and of its own, of the parts whose weight is set."""
        return {name: list(norms) for name, norms in self._norms.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with the norms of :meth:`state_dict`."""
        self._norms = {name: (norms[0], norms[1]) for name, norms in state.items()}


class Weighted(torch.autograd.Function):
    """A part, unchanged in value; its gradient is multiplied by the factor that the balance has by then."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, balance: GradientBalance, name: str) -> Tensor:
        ctx.balance, ctx.name = balance, name
        ctx.set_materialize_grads(False)
        return part.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        if gradient is None:
            return None, None, None
        return gradient * ctx.balance.factor(ctx.name), None, None


def trained_parameters(trainer: Any) -> list[nn.Parameter]:
    """Parameters that require a gradient in the trainer's registered models, each once."""
    registered = getattr(trainer, "_models", None) or {"model": trainer.model}
    parameters = (p for model in registered.values() for p in model.parameters() if p.requires_grad)
    return list(dict.fromkeys(parameters))


def optimized_parameters(trainer: Any) -> list[nn.Parameter]:
    """Parameters in the trainer's optimizers (``_optims`` as in Dassl, ``optim``), else those that are trained."""
    named = getattr(trainer, "_optims", None)
    found = [*(named.values() if isinstance(named, Mapping) else ()), getattr(trainer, "optim", None)]
    groups = [group for optim in found if isinstance(optim, torch.optim.Optimizer) for group in optim.param_groups]
    return [p for group in groups for p in group["params"]] if groups else trained_parameters(trainer)


def reaches(value: Tensor, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether back-propagation from a value arrives at one of the parameters, from its graph; nothing is computed.

    A node of reentrant activation checkpointing, which hides the parameters behind it, counts as arriving.
    """
    reached = leaves_reached(value)
    return reached is None or any(id(parameter) in reached for parameter in parameters)


def leaves_reached(value: Tensor) -> set[int] | None:
    """``id`` of the leaves at which back-propagation from a value arrives, from its graph; nothing is computed.

    None where a node of reentrant activation checkpointing hides what lies behind it.
    """
    waiting = [value.grad_fn] if value.grad_fn is not None else []
    seen = set(waiting)
    reached = {id(value)}
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == "CheckpointFunctionBackward":
            return None
        if (leaf := getattr(node, "variable", None)) is not None:
            reached.add(id(leaf))
        following = {function for function, _ in node.next_functions if function is not None} - seen
        seen |= following
        waiting += following
    return reached


def gradient_norm(loss: Tensor, parameters: Sequence[nn.Parameter], scale: Tensor) -> Tensor:
    """Norm of the gradient of ``scale`` times a loss over all parameters, a float64 scalar; 0 where none flows.

    The graph is kept, and no parameter's ``grad`` is touched.
    """
    if not loss.requires_grad:
        return _norm((), scale)
    factor = scale.to(loss.dtype).reshape(loss.shape)
    return _norm(torch.autograd.grad(loss, parameters, factor, retain_graph=True, allow_unused=True), scale)


def _norm(gradients: Iterable[Tensor | None], like: Tensor) -> Tensor:
    """Length of all gradients, a float64 scalar on the device of ``like``; 0 where there is none."""
    squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else like.new_zeros((), dtype=torch.float64)
