"""The multiplier of the main loss, found from the gradient that arrives.

A regularizer R is to get what the trainer's loss L gets on its way to ``backward()``: the scale of a GradScaler, and
1 / n where gradients are accumulated over n steps or averaged over n forwards. A factor that belongs to L itself
(``0.7 * a + 0.3 * b``) is none of R's business. Where the two cannot be told apart, that is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.errors import HookError
from cpt_plugin.hook.accumulation import accumulation_settings
from cpt_plugin.hook.arrival import SURE, Arrival, Seen, cross_entropy_probe, same, tolerance_of
from cpt_plugin.hook.watch import BackwardWatch

_MOST_STEPS = 64
_STATE = (
    "state what the loss is divided by, CPTHook(accumulation=N) (in the runner --accumulation N), or accumulation=1 if "
    "it is not divided and all factors belong to the loss itself"
)
_FIRST = 'CPTHook(forwards="first") regularizes the first only (in the runner --forwards first)'


class LossScale:
    """Multiplier of the main loss.

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
        self._share: float | None = None
        self._weak = False

    def arrival(
        self,
        outputs: tuple[Tensor, ...],
        gradients: tuple[Tensor | None, ...],
        like: Tensor,
        size: int,
        labels: Tensor | None,
    ) -> Arrival:
        """What arrived on the model's outputs; nothing of it is on the host yet.

        outputs: what the model returned, as far as it requires a gradient.
        gradients: what arrived on them; None where nothing did.
        like: the regularizers' sum.
        size: B; an output of shape (1,) may be the loss, or what was computed of a single image.
        labels: what the images are taken for, to be compared with the cross-entropy's; None where that is sure.
        """
        arrived = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
        scale = self._watch.loss_scale(like)
        found = Arrival(None, len(outputs) > 1, scale, self._watch.factor)
        lone = arrived[0][0] if len(arrived) == 1 else None
        if lone is not None and (lone.dim() == 0 or (lone.shape == (1,) and size > 1)):
            found.weight = arrived[0][1].reshape(()).double() / scale.double()
        for output, gradient in arrived:
            if output.dim() == 2 and output.shape[1] >= 2 and len(output):
                known = labels if labels is not None and output.shape == (len(labels), self._classes) else None
                probe = cross_entropy_probe(output, gradient, tolerance_of(output.dtype), known)
                found.probes.append((probe, output.dtype))
        return found

    def share(self, arrival: Arrival, forwards: int) -> Tensor:
        """What the regularizers are multiplied by on top of the loss scale, a float64 scalar.

        forwards: regularized forwards of this step that are back-propagated together.

        Raises HookError where it cannot be told, or the cross-entropy was computed with other labels.
        """
        if self._accumulation is not None:
            if self._share is None:
                self._share = 1 / self._accumulation
                self._refuse_contradiction(self.read(arrival))
            return torch.full_like(arrival.scale, self._share, dtype=torch.float64)
        if forwards > 1 or self._share is None:
            seen = self.read(arrival)
            self._refuse_other_labels(seen)
            if forwards > 1:
                decided = self._of_one_of_several(seen)
            else:
                decided = self._share = self._of_the_only(seen)
            if arrival.weight is None:
                return torch.full_like(arrival.scale, decided, dtype=torch.float64)
        if arrival.weight is not None:
            return arrival.weight
        return torch.full_like(arrival.scale, self._share, dtype=torch.float64)  # type: ignore[arg-type]

    @staticmethod
    def read(arrival: Arrival) -> Seen:
        """An arrival on the host, by one transfer."""
        return Seen.of(arrival, arrival.numbers().tolist())

    def check(self, seen: Seen, forwards: int) -> None:
        """Raise HookError if what was seen in a later step does not lead to the multiplier of the first."""
        self._refuse_other_labels(seen)
        if self._accumulation is not None:
            self._refuse_contradiction(seen)
            return
        if forwards > 1 or self._share is None:
            return
        share = self._of_the_only(seen)
        if seen.weight is None and not same(share, self._share, 1e-6):
            raise HookError(
                f"The multiplier of the loss has changed from {self._share:.6g} to {share:.6g}, so the scale of the "
                f"regularizer is unknown: {_STATE}."
            )

    def refuse_kept(self, parameters: Iterable[nn.Parameter]) -> None:
        """Raise HookError if gradients of earlier steps are kept where the multiplier holds only if they are not.

        To be called when the first loss of a step is about to be back-propagated.
        """
        if not self._weak or self._accumulation is not None:
            return
        kept = [p.grad.abs().amax() for p in parameters if p.grad is not None and p.grad.numel()]
        if kept and bool(torch.stack([k.float() for k in kept]).amax() > 0):
            raise HookError(
                "Gradients are accumulated over several steps, and the model's output does not show what the loss is "
                f"divided by: {_STATE}."
            )

    def _refuse_contradiction(self, seen: Seen) -> None:
        """Raise HookError where a stated divisor is contradicted by all that is seen."""
        steps = self._accumulation or 1
        if seen.weight is not None and steps > 1 and not same(seen.weight * steps, 1, 1e-2):
            raise HookError(
                f"accumulation={steps} is stated, but the loss that the model returned is back-propagated with the "
                f"weight {seen.weight:.6g}: {_STATE}."
            )
        factor_fits = seen.factor is None or same(seen.factor * steps, 1, 1e-6)
        weights = [ce.weight for ce in seen.cross_entropies]
        fits = factor_fits or any(same(weight * steps, 1, 1e-2) for weight in (*weights, sum(weights)))
        if steps > 1 and weights and not fits:
            raise HookError(
                f"accumulation={steps} is stated, but the cross-entropy arrives with the weight "
                f"{', '.join(f'{w:.6g}' for w in weights)} and the factor in front of the loss is {seen.factor:.6g}: "
                f"{_STATE}."
            )

    def _refuse_other_labels(self, seen: Seen) -> None:
        if seen.other_labels:
            raise HookError(
                "The trainer's cross-entropy was computed with other labels than the regularizer was given, batch"
                '["label"] or what the model was passed (the trainer reorders or replaces them): state them, e.g. '
                "CPTHook(labels=lambda step: step.inputs[1]) for the model's second argument, in the runner "
                "--labels FILE.py:NAME."
            )

    @cached_property
    def _stated(self) -> dict[str, float]:
        """What the trainer says of accumulation, by where it says so; looked for once."""
        return dict(accumulation_settings(self._trainer))

    def _of_the_only(self, seen: Seen) -> float:
        """Multiplier over the loss scale, in a step with one forward."""
        if seen.weight is not None:
            return self._of_returned_loss(seen.weight, seen)
        weights = seen.cross_entropies
        single = any(ce.is_one_over(1) for ce in weights)
        whole = bool(weights) and same(sum(ce.weight for ce in weights), 1, max(ce.tolerance for ce in weights))
        factor_is_one = seen.factor is not None and same(seen.factor, 1, 1e-6)
        divisors = [n for n in self._stated.values() if seen.factor is not None and same(seen.factor * n, 1, 1e-6)]
        if not divisors and (whole or (single and (factor_is_one or seen.factor is None or len(weights) == 1))):
            self._weak = not factor_is_one
            return 1.0
        if divisors and not (len(weights) > 1 and (whole or single)) and not (len(weights) == 1 and single):
            return 1 / divisors[0]
        averaged = any(ce.is_one_over(n) for ce in weights for n in range(2, _MOST_STEPS + 1))
        if factor_is_one and not averaged and not self._stated:
            self._weak = True
            return 1.0
        raise HookError(self._why(seen))

    def _of_returned_loss(self, weight: float, seen: Seen) -> float:
        """The multiplier of the model's own loss, if what stands in front of the trainer's explains it.

        That is 1, 1 / n, or, of a model that returns nothing else, a loss scale made by hand.
        """
        explained = seen.factor is not None and same(weight, seen.factor, 1e-6)
        divided = any(same(weight * n, 1, 1e-6) for n in range(2, _MOST_STEPS + 1))
        if same(weight, 1, 1e-6) or (explained and (divided or (weight > 1 and not seen.in_container))):
            return weight
        raise HookError(
            f"The loss that the model returned is back-propagated with the weight {weight:.6g}"
            + (f", where the factor in front of the trainer's loss is {seen.factor:.6g}" if seen.factor else "")
            + f", so the scale of the regularizer cannot be told: {_STATE}."
        )

    def _of_one_of_several(self, seen: Seen) -> float:
        """Multiplier over the loss scale of one of several forwards in a step: the weight of its loss."""
        if seen.weight is not None:
            if seen.weight > 0:
                return seen.weight
            raise HookError(
                f"One of several forwards of this step is back-propagated with the weight {seen.weight:.6g}, so the "
                f"scale of its regularizer cannot be told: {_FIRST}, or {_STATE}."
            )
        weights = [ce for ce in seen.cross_entropies if ce.alike]
        shares = {
            next((n for n in range(1, _MOST_STEPS + 1) if same(value * n, 1, ce.tolerance)), None)
            for ce in weights
            for value in (ce.weight, sum(other.weight for other in weights))
        }
        if len(shares) == 1 and not self._watch.scaled_beside:
            steps = shares.pop()
            if steps is not None:
                return 1 / steps
            if len(weights) == 1 and weights[0].rows >= SURE and weights[0].weight < 1:
                return weights[0].weight
        raise HookError(
            "The model ran several times in one training step and returned no loss, and its logits do not show one "
            f"mean cross-entropy, so how its forwards are weighted is unknown: {_FIRST}, or {_STATE}."
        )

    def _why(self, seen: Seen) -> str:
        weights = [ce.weight for ce in seen.cross_entropies]
        facts = []
        if self._stated:
            settings = ", ".join(f"{name} = {steps}" for name, steps in self._stated.items())
            facts.append(f"the trainer speaks of accumulation ({settings})")
        if weights:
            facts.append(f"the cross-entropy on its logits has the weight {', '.join(f'{w:.6g}' for w in weights)}")
        if seen.factor is not None and not same(seen.factor, 1, 1e-6):
            facts.append(f"the factor in front of the loss is {seen.factor:.6g}")
        if seen.factor is None:
            facts.append("what stands in front of the loss was not seen")
        if self._watch.scaled_beside:
            facts.append("a GradScaler was used, but not on the very loss that was back-propagated")
        divided = next((n for n in range(2, _MOST_STEPS + 1) for w in weights if same(w * n, 1, 1e-4)), None)
        example = f" (here perhaps {divided})" if divided else ""
        return (
            f"The model does not return its loss, and the scale of the regularizer cannot be told: {'; '.join(facts)}. "
            f"If gradients are accumulated or averaged{example}, {_STATE}."
        )
