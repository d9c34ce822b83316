"""The multiplier of the main loss where a model returns logits or a tuple, found from the gradient that arrives.

A regularizer R is to get what the trainer's loss L gets on its way to ``backward()``: the scale of a GradScaler, and
1 / n where gradients are accumulated over n steps or averaged over n forwards. A factor that belongs to L itself
(``0.5 * a + 0.5 * b``) is none of R's business. Where the two cannot be told apart, that is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.errors import HookError
from cpt_plugin.hook.watch import BackwardWatch

Arrived = list[tuple[Tensor, Tensor]]
"""What the model returned, and the gradient that arrived on it."""
_MOST_FORWARDS = 64
_STATE = (
    "state what the loss is divided by, CPTHook(accumulation=N) (in the runner --accumulation N), or accumulation=1 if "
    "it is not divided and all factors belong to the loss itself"
)


class LossScale:
    """Multiplier of the main loss for models that return logits or a tuple.

    trainer: searched for settings that speak of accumulation.
    classes: K, the number of trained classes.
    accumulation: what the trainer divides its loss by; None finds it.
    watch: what this step did to its loss.
    """

    def __init__(self, trainer: Any, classes: int, accumulation: int | None, watch: BackwardWatch) -> None:
        self._trainer = trainer
        self._classes = classes
        self._accumulation = accumulation
        self._watch = watch
        self._fraction: float | None = None
        self._factor: float | None = None

    def __call__(
        self,
        outputs: tuple[Tensor, ...],
        gradients: tuple[Tensor | None, ...],
        like: Tensor,
        forwards: int,
        labels: Tensor | None,
    ) -> Tensor:
        """The multiplier, a scalar of the type of ``like``, in the backward pass of a step.

        Args:
            outputs: what the model returned, as far as it requires a gradient.
            gradients: what arrived on them; None where nothing did.
            forwards: regularized forwards of this step so far.
            labels: what the images are taken for, to be compared with the cross-entropy's; None where that is sure.

        Raises:
            HookError: the multiplier cannot be told, or the cross-entropy was computed with other labels.
        """
        arrived = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
        scale = self._watch.loss_scale(like)
        if self._accumulation is not None:
            return scale / self._accumulation
        if len(arrived) == 1 and _is_scalar(arrived[0][0]):
            return arrived[0][1].reshape(()).to(like.dtype)
        if forwards > 1:
            return scale * self._of_one_of_several(arrived, scale)
        if self._fraction is None:
            self._fraction = self._of_the_only(arrived, scale, labels)
        return scale * self._fraction

    def check_factor(self, factor: float) -> None:
        """Raise HookError if the factor in front of the loss, over the loss scale, is not the one of the first step."""
        if self._fraction is None:
            return
        if self._factor is None:
            self._factor = factor
        if not _same(factor, self._factor, 1e-3):
            raise HookError(
                f"The factor in front of the loss has changed from {self._factor:.6g} to {factor:.6g}, so the scale of "
                f"the regularizer is unknown: {_STATE}."
            )

    def _of_the_only(self, arrived: Arrived, scale: Tensor, labels: Tensor | None) -> float:
        """Multiplier over the loss scale, in a step with one forward."""
        of_loss = _number(scale)
        factor = None if self._watch.factor is None else _number(self._watch.factor)
        weights = self._cross_entropies(arrived, of_loss, labels)
        parts = [weight for weight, _ in weights]
        tolerance = max([1e-4, *(t for _, t in weights)])
        if parts and any(_same(weight, 1, tolerance) for weight in (*parts, sum(parts))):
            return 1.0
        stated = dict(accumulation_settings(self._trainer))
        whole = (sum(parts), tolerance) if parts else (factor, 1e-6)
        for steps in stated.values():
            if whole[0] is not None and _same(whole[0] * steps, 1, whole[1]):
                return 1 / steps
        divided = next((n for n in range(2, _MOST_FORWARDS + 1) for w in parts if _same(w * n, 1, tolerance)), None)
        plain = factor is not None and _same(factor, 1, 1e-6)
        if plain and divided is None and not stated and not self._watch.scaled_beside:
            return 1.0
        raise HookError(self._why(parts, factor, divided, stated))

    def _of_one_of_several(self, arrived: Arrived, scale: Tensor) -> float:
        """Multiplier over the loss scale of one of several forwards in a step: the weight of its cross-entropy."""
        weights = self._cross_entropies(arrived, _number(scale), None)
        total = sum(weight for weight, _ in weights)
        if not weights or self._watch.scaled_beside:
            raise HookError(
                "The model ran several times in one training step and returned no loss, and its logits do not show the "
                'gradient of a cross-entropy, so how its forwards are weighted is unknown: CPTHook(forwards="first") '
                f"regularizes the first only (in the runner --forwards first), or {_STATE}."
            )
        tolerance = max(t for _, t in weights)
        whole = next((n for n in range(1, _MOST_FORWARDS + 1) if _same(total * n, 1, tolerance)), None)
        return total if whole is None else 1 / whole

    def _cross_entropies(
        self, arrived: Arrived, of_loss: float, labels: Tensor | None
    ) -> list[tuple[float, float]]:
        """(weight over the loss scale, relative tolerance) of each cross-entropy that is seen on logits."""
        found = []
        for output, gradient in arrived:
            tolerance = _tolerance(output)
            weight = cross_entropy_weight(output, gradient, tolerance)
            if weight is None:
                continue
            found.append((weight / of_loss, tolerance))
            if labels is not None and output.shape == (len(labels), self._classes):
                _compare_labels(gradient, labels)
        return found

    def _why(self, parts: list[float], factor: float | None, divided: int | None, stated: Mapping[str, float]) -> str:
        seen = []
        if stated:
            seen.append(f"the trainer speaks of accumulation ({', '.join(f'{k} = {v}' for k, v in stated.items())})")
        if parts:
            seen.append(f"the cross-entropy on its logits has the weight {', '.join(f'{w:.6g}' for w in parts)}")
        if factor is not None and not _same(factor, 1, 1e-6):
            seen.append(f"the factor in front of the loss is {factor:.6g}")
        if factor is None:
            seen.append("the call of backward() was not seen")
        if self._watch.scaled_beside:
            seen.append("a GradScaler was used, but not on the very loss that was back-propagated")
        example = f" (here perhaps {divided})" if divided else ""
        return (
            f"The model does not return its loss, and the scale of the regularizer cannot be told: {'; '.join(seen)}. "
            f"If gradients are accumulated or averaged{example}, {_STATE}."
        )


def cross_entropy_weight(logits: Tensor, gradient: Tensor, tolerance: float) -> float | None:
    r"""Weight of a mean cross-entropy on (B, K) logits, from the gradient that arrived on them; None if it is another.

    With p the softmax of a row z_i and t_i its target, the gradient of :math:`s\,\frac1B\sum_i w_i \ell(z_i, t_i)` is
    :math:`\frac{s w_i}{B}(p_i - e_{t_i})`: negative at the target only, and in this direction. The weight is
    :math:`s\,\frac1B\sum_i w_i`. With two classes every row points that way, so three alike are asked for.
    """
    if logits.dim() != 2 or logits.shape[1] < 2 or not len(logits):
        return None
    z, g = logits.detach().double(), gradient.detach().double()
    if not (z.isfinite().all() and g.isfinite().all()):
        return None
    target = g.argmin(dim=1, keepdim=True)
    direction = torch.softmax(z, dim=1)
    direction.scatter_add_(1, target, -torch.ones_like(target, dtype=torch.float64))
    length = direction.square().sum(1)
    telling = length > 1e-6
    if not telling.any() or not g.any():
        return None
    row = ((g * direction).sum(1) / length.clamp_min(1e-300))[telling]
    residual = (g[telling] - row[:, None] * direction[telling]).norm(dim=1)
    if (residual > tolerance * g.norm(dim=1).max()).any() or (row < 0).any():
        return None
    alike = bool(((row - row.mean()).abs() <= 10 * tolerance * row.mean()).all())
    if logits.shape[1] == 2 and not (alike and len(row) >= 3):
        return None
    if alike:
        return float(row.mean() * len(z))
    return float(row.sum()) if telling.all() else None


def _compare_labels(gradient: Tensor, labels: Tensor) -> None:
    targets = gradient.argmin(dim=1).to(labels.device)
    counted = gradient.abs().amax(dim=1).to(labels.device) > 0
    if bool((targets != labels)[counted].any()):
        raise HookError(
            "The trainer's cross-entropy was computed with other labels than batch[\"label\"], which the regularizer "
            "was given (the trainer reorders or replaces the batch): state them, e.g. CPTHook(labels=lambda step: "
            "step.inputs[1]) for the model's second argument, in the runner --labels FILE.py:NAME."
        )


def accumulation_settings(trainer: Any) -> Iterator[tuple[str, float]]:
    """Numbers above 1 under names with "accum" in a trainer, its class and what it is configured by, however nested."""
    names = [name for name in dir(trainer) if "accum" in name.lower() and not name.startswith("__")]
    for name in names:
        try:
            value = getattr(trainer, name)
        except Exception:
            continue
        if _counts(value):
            yield f"trainer.{name}", value
    for name, value in vars(trainer).items() if hasattr(trainer, "__dict__") else ():
        if name.lower() in ("cfg", "config", "args", "opts", "options", "hparams") or _is_settings(value):
            yield from _settings(value, name if name == "cfg" else f"trainer.{name}", set())


def _settings(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, float]]:
    if id(node) in seen or len(seen) > 1000:
        return
    seen.add(id(node))
    items = node.items() if isinstance(node, Mapping) else getattr(node, "__dict__", {}).items()
    for key, value in items:
        where = f"{path}.{key}"
        if "accum" in str(key).lower() and _counts(value):
            yield where, value
        elif _is_settings(value):
            yield from _settings(value, where, seen)


def _is_settings(value: Any) -> bool:
    """Whether something is a node of a configuration: a mapping, or a plain object of attributes."""
    if isinstance(value, Mapping):
        return True
    return type(value).__name__ in ("SimpleNamespace", "Namespace", "CfgNode") or hasattr(value, "__dataclass_fields__")


def _counts(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 1


def _is_scalar(output: Tensor) -> bool:
    return output.dim() <= 1 and output.numel() == 1


def _number(value: Tensor) -> float:
    return float(value.detach().double().reshape(()))


def _tolerance(logits: Tensor) -> float:
    """Relative error to be expected of a gradient in the type of the logits."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(logits.dtype, 3e-2)


def _same(value: float, other: float, tolerance: float) -> bool:
    return math.isfinite(value) and abs(value - other) <= tolerance * abs(other)
