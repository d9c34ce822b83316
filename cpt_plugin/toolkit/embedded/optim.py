"""Optimizers and epoch-wise learning-rate schedules by configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from cpt_plugin.errors import ConfigError

Schedule = Callable[[int, int], float]
"""The rate at a position as a factor of the one at an earlier position, from both, earlier one first."""


def _adam(kind: Callable[..., torch.optim.Optimizer], **more: Any) -> Callable[[Any, Any], torch.optim.Optimizer]:
    return lambda p, c: kind(p, betas=(c.ADAM_BETA1, c.ADAM_BETA2), **_common(c), **more)


def _common(c: Any) -> dict[str, Any]:
    return {"lr": c.LR, "weight_decay": c.WEIGHT_DECAY}


OPTIMIZERS: dict[str, Callable[[Any, Any], torch.optim.Optimizer]] = {
    "adam": _adam(torch.optim.Adam),
    "adamw": _adam(torch.optim.AdamW),
    "amsgrad": _adam(torch.optim.Adam, amsgrad=True),
    "radam": _adam(torch.optim.RAdam),
    "rmsprop": lambda p, c: torch.optim.RMSprop(p, momentum=c.MOMENTUM, alpha=c.RMSPROP_ALPHA, **_common(c)),
    "sgd": lambda p, c: torch.optim.SGD(
        p, momentum=c.MOMENTUM, dampening=c.SGD_DAMPNING, nesterov=c.SGD_NESTEROV, **_common(c)
    ),
}
"""``OPTIM.NAME``: how an optimizer is made from parameters (or groups of them) and the ``OPTIM`` node."""


def build_optimizer(
    model: nn.Module | Iterable[Any], optim_cfg: Any, param_groups: Any = None
) -> torch.optim.Optimizer:
    """Builds the optimizer ``OPTIM.NAME`` over the trainable parameters of ``model``.

    Args:
        model: a module, or an iterable of parameters or parameter groups.
        optim_cfg: the ``OPTIM`` node.
        param_groups: used instead of ``model`` when given.

    Raises:
        ConfigError: unknown name, or nothing to train.
    """
    c = optim_cfg
    if c.NAME not in OPTIMIZERS:
        raise ConfigError(f"OPTIM.NAME must be one of {', '.join(OPTIMIZERS)}, not {c.NAME!r}")
    groups = list(param_groups if param_groups is not None else _parameters(model, c))
    if not groups:
        raise ConfigError("there is nothing to train: no parameter requires a gradient")
    try:
        return OPTIMIZERS[c.NAME](groups, c)
    except ValueError as error:
        raise ConfigError(f"OPTIM is not valid for {c.NAME}: {error}") from error


def _parameters(model: nn.Module | Iterable[Any], c: Any) -> list[Any]:
    if not isinstance(model, nn.Module):
        if c.STAGED_LR:
            raise ConfigError("OPTIM.STAGED_LR needs a module, not a list of parameters")
        return list(model)
    if not c.STAGED_LR:
        return [p for p in model.parameters() if p.requires_grad]
    new_layers = set(c.NEW_LAYERS)
    unknown = new_layers - {name for name, _ in model.named_children()}
    if unknown or not new_layers:
        raise ConfigError(f"OPTIM.NEW_LAYERS must name children of the model; not found: {sorted(unknown)}")
    base: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.split(".")[0] in new_layers else base).append(parameter)
    return [{"params": base, "lr": c.LR * c.BASE_LR_MULT}, {"params": new}]


class EpochScheduler:
    r"""Sets each group's learning rate from a closed form of the epoch.

    :math:`\eta_t = \eta_w(t)` for :math:`t < W` (warm-up), else :math:`\eta_0\, f(t - W)`, where :math:`t`
    counts calls of :meth:`step`, :math:`\eta_0` is the group's initial rate, :math:`W` the length of the
    warm-up and :math:`f` the decay, :math:`f(0) = 1`. Without ``recount`` the decay counts the epochs of the
    warm-up too, and still starts from the initial rate: :math:`\eta_0\, f(t) / f(W)`, as in Dassl. Only :math:`t`
    is saved, so a loaded scheduler continues exactly and under the configuration at hand.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        decay: Schedule,
        warmup_epochs: int = 0,
        warmup: Callable[[float, int], float] | None = None,
        recount: bool = True,
    ) -> None:
        self.optimizer = optimizer
        self.last_epoch = 0
        self._decay, self._warmup = decay, warmup
        self._warmup_epochs, self._recount = warmup_epochs, recount
        self._apply()

    def rate(self, initial: float, epoch: int) -> float:
        """Returns the learning rate of a group with rate ``initial`` in the given epoch (from 0)."""
        if self._warmup is not None and epoch < self._warmup_epochs:
            return self._warmup(initial, epoch)
        first = 0 if self._recount else self._warmup_epochs
        return initial * self._decay(first, epoch - self._warmup_epochs + first)

    def step(self) -> None:
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.last_epoch = int(state["last_epoch"])
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            initial = group.setdefault("initial_lr", group["lr"])
            group["lr"] = self.rate(initial, self.last_epoch)


def build_lr_scheduler(optimizer: torch.optim.Optimizer, optim_cfg: Any) -> EpochScheduler:
    r"""Builds the schedule ``OPTIM.LR_SCHEDULER`` with an optional constant or linear warm-up.

    ``cosine``: :math:`f(k) = (1 + \cos(\pi k / T)) / 2` with :math:`T` = ``MAX_EPOCH``; ``single_step`` and
    ``multi_step``: :math:`f(k) = \gamma^n`, :math:`n` = number of steps passed. With one epoch of constant
    warm-up and ``cosine`` this is the schedule of the released prompt-learning code (CoOp).

    Raises:
        ConfigError: unknown schedule or warm-up, or a step size that does not fit.
    """
    c = optim_cfg
    if c.LR_SCHEDULER not in DECAYS:
        raise ConfigError(f"OPTIM.LR_SCHEDULER must be one of {', '.join(DECAYS)}, not {c.LR_SCHEDULER!r}")
    if c.MAX_EPOCH < 1:
        raise ConfigError(f"OPTIM.MAX_EPOCH must be at least 1 to train, not {c.MAX_EPOCH}")
    decay = DECAYS[c.LR_SCHEDULER](c)
    if c.WARMUP_EPOCH <= 0:
        return EpochScheduler(optimizer, decay)
    if c.WARMUP_TYPE not in WARMUPS:
        raise ConfigError(f"OPTIM.WARMUP_TYPE must be {' or '.join(WARMUPS)}, not {c.WARMUP_TYPE!r}")
    return EpochScheduler(optimizer, decay, c.WARMUP_EPOCH, WARMUPS[c.WARMUP_TYPE](c), c.WARMUP_RECOUNT)


def _cosine(c: Any) -> Schedule:
    def height(k: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * k / c.MAX_EPOCH))

    def decay(first: int, k: int) -> float:
        if k == first:
            return 1.0
        return height(k) / height(first) if height(first) else 0.0

    return decay


def _single_step(c: Any) -> Schedule:
    size = c.STEPSIZE[-1] if c.STEPSIZE else -1
    size = size if size > 0 else c.MAX_EPOCH
    return lambda first, k: c.GAMMA ** (k // size - first // size)


def _multi_step(c: Any) -> Schedule:
    milestones = tuple(c.STEPSIZE)
    if not milestones or min(milestones) < 1:
        raise ConfigError(
            f"OPTIM.STEPSIZE must list the epochs of multi_step, e.g. (10, 20), not {milestones!r}"
        )
    return lambda first, k: c.GAMMA ** sum(first < milestone <= k for milestone in milestones)


DECAYS: dict[str, Callable[[Any], Schedule]] = {
    "cosine": _cosine,
    "single_step": _single_step,
    "multi_step": _multi_step,
}
"""``OPTIM.LR_SCHEDULER``: how the decay is made from the ``OPTIM`` node."""
WARMUPS: dict[str, Callable[[Any], Callable[[float, int], float]]] = {
    "constant": lambda c: lambda initial, epoch: c.WARMUP_CONS_LR,
    "linear": lambda c: lambda initial, epoch: initial * epoch / c.WARMUP_EPOCH if epoch else c.WARMUP_MIN_LR,
}
"""``OPTIM.WARMUP_TYPE``: likewise, the rate of a group from its initial one and the epoch."""
