"""One training step of a hooked trainer: ``forward_backward`` with the regularizers added to what it does."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.errors import HookError, TrainingError
from cpt_plugin.functional._normalize import working_dtype
from cpt_plugin.hook.arrival import Arrival, Seen
from cpt_plugin.hook.attach import Attachment, Gradients, Observer, Outputs, attach_loss
from cpt_plugin.hook.balance import (
    GradientBalance,
    Target,
    Weighted,
    gradient_norm,
    optimized_parameters,
    trained_parameters,
)
from cpt_plugin.hook.checks import attached_models
from cpt_plugin.hook.coverage import Coverage, remedy_of_constant
from cpt_plugin.hook.features import Features
from cpt_plugin.hook.labels import Labels
from cpt_plugin.hook.reading import BACKWARD, Reading
from cpt_plugin.hook.scale import LossScale
from cpt_plugin.hook.taps import Forward, Taps
from cpt_plugin.hook.watch import BackwardWatch
from cpt_plugin.profiling import profile_of
from cpt_plugin.regularizers import FeatureBatch, Regularizer
from cpt_plugin.regularizers.base import checked_parts

LOG = logging.getLogger("cpt_plugin")


@dataclass
class _Added:
    """What one forward adds to the trainer's loss: its parts' values, and what they were multiplied by each time."""

    values: dict[str, float]
    times: list[tuple[Tensor, Arrival]] = field(default_factory=list)
    attachment: Attachment = field(init=False)


class RegularizedStep:
    """Stands in for ``trainer.forward_backward`` and adds the regularizers to what it does.

    Attributes:
        regularizers: the active ones.
        installed: whether it stands there now.
        failed: whether the last step came to an error.
        parts, total: weighted parts and their sum, of the last step.
        balance: what sets balanced weights.
        coverage: what the log says of the first step, and which parts reach nothing that is trained.
    """

    def __init__(self, trainer: Any, regularizers: list[Regularizer], frozen_text: Tensor, reading: Reading) -> None:
        self.regularizers = regularizers
        self.installed = False
        self.parts: dict[str, float] = {}
        self.total = 0.0
        self._trainer = trainer
        self._model: nn.Module = trainer.model
        encoders = reading.encoders(self._model)
        self._backward = reading.backward
        self._taps = Taps(self._model, encoders, self._timed, first_only=reading.forwards == "first")
        names = {"text": reading.text, "image": reading.image}
        classes = len(frozen_text)
        self._features = Features(frozen_text, reading.features, names, self._taps.traced)
        self._labels = Labels(self._model, classes, reading.labels)
        self._watch = BackwardWatch(self._before_backward)
        self._scale = LossScale(trainer, classes, reading.accumulation, self._watch)
        self.coverage = Coverage(trainer, encoders, names)
        self.failed = False
        self._refusal: HookError | None = None
        self.balance = GradientBalance(trainer)
        self._profile = profile_of(trainer)
        self._steps = 0
        self._batches: tuple[Any, ...] = ()
        self._attached: list[_Added] = []
        self._together = 1
        self._trained: list[nn.Parameter] = []
        self._sources: dict[str, tuple[Regularizer, str]] = {}
        self._live: dict[str, tuple[Tensor, float]] = {}
        self._norms: tuple[dict[str, float], dict[str, float]] = {}, {}
        self._running = False
        self._own_original = "forward_backward" in vars(trainer)
        self._original: Callable[..., Any] = trainer.forward_backward
        self._install()

    def _install(self) -> None:
        self._taps.install()
        self._trainer.forward_backward = self
        attached_models[self._model] = weakref.ref(self)
        self.installed = True
        self.coverage.on_attaching()

    def uninstall(self) -> None:
        """Take everything out; beneath somebody else's later wrapper this step stays, without effect."""
        if not self.installed:
            return
        self.installed = False
        self.balance.close()
        self._taps.remove()
        if self._taps.unseen and not self._steps:
            LOG.warning(
                f"{type(self._trainer).__name__}.model ran with gradients, but never inside forward_backward: nothing "
                "was regularized"
            )
        attached_models.pop(self._model, None)
        if vars(self._trainer).get("forward_backward") is not self:
            return
        if self._own_original:
            self._trainer.forward_backward = self._original
        else:
            del self._trainer.forward_backward

    def __reduce__(self) -> Any:
        raise HookError("A trainer with a CPTHook cannot be copied or pickled: detach() the handle first.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._running or not self.installed:
            return self._original(*args, **kwargs)
        if self._refusal is not None:
            raise HookError(f"An earlier step was refused, so this training cannot go on: {self._refusal}")
        if self._trainer.model is not self._model:
            raise HookError("trainer.model was replaced after the hook was attached: detach(), attach again.")
        self._steps += 1
        self._attached.clear()
        self._norms = {}, {}
        self._batches, self._trained = _batches((*args, *kwargs.values())), trained_parameters(self._trainer)
        self._running = True
        try:
            with self._taps.armed(), self._watch.watching():
                summary = self._original(*args, **kwargs)
            if self._refusal is not None:
                raise self._refusal
            self._check_back_propagated()
            self.coverage.end_of_step(f"step {self._steps}{self._position()}")
            self._report(summary)
        except BaseException as error:
            self.failed = True
            self._refusal = error if isinstance(error, HookError) else None
            raise
        finally:
            self._running = False
            self._live, self._batches, self._trained = {}, (), []
            for added in self._attached:
                added.attachment.release()
        self.failed = False
        return summary

    def _timed(self, forward: Forward) -> Any:
        with self._profile.section("regularizer"), self._refusals_kept():
            return self._regularize(forward)

    @contextmanager
    def _refusals_kept(self) -> Iterator[None]:
        """A refusal stands, also where the trainer goes on after an error."""
        try:
            yield
        except HookError as error:
            self._refusal = error
            raise

    def _regularize(self, forward: Forward) -> Any:
        """Called at the end of the model's forward; returns its output with the regularizers attached."""
        text, image = self._features(forward)
        self._taps.without_gradient.update(k for k, f in (("text", text), ("image", image)) if not f.requires_grad)
        labels, labels_sure = self._labels(forward, self._batches, len(image), again=bool(self._attached))
        features = FeatureBatch(
            text=text.to(working_dtype(text)), image=image.to(working_dtype(image)), labels=labels.to(image.device)
        )
        features.progress = self._progress()
        with torch.autocast(device_type=features.image.device.type, enabled=False):
            parts = self._compute(features)
            strengths = {name: self._sources[name][0].strength(features) for name in parts}
            total = torch.stack([self._weighted(name, part, strengths[name]) for name, part in parts.items()]).sum()
        if not total.requires_grad:
            constant = dict.fromkeys(filter(None, (remedy_of_constant(*self._sources[name]) for name in parts)))
            advice = "".join(f" {remedy[0].upper()}{remedy[1:]}." for remedy in constant)
            raise HookError(
                f"Nothing to regularize: no gradient flows back from the parts {', '.join(parts)} (text "
                f"features require a gradient: {features.text.requires_grad}, image features: "
                f"{features.image.requires_grad}). Train prompts of the encoder that these parts act on, run "
                "that encoder with gradients on (no torch.no_grad, no checkpointing with "
                f"use_reentrant=True), or set the weights to 0.{advice}"
            )
        values = self._finite_values(parts, strengths, features)
        self.coverage.of_parts(parts, self._sources, self._trained)
        self.coverage.of_forward(forward, text, image, total, self._trained)
        self._live = {name: (part, strengths[name]) for name, part in parts.items()}
        return self._attach(forward.output, total, values, features, parts, labels_sure)

    def _attach(
        self,
        output: Any,
        total: Tensor,
        values: dict[str, float],
        features: FeatureBatch,
        parts: dict[str, Tensor],
        labels_sure: bool,
    ) -> Any:
        """The model's output with the regularizers' sum attached; ``values`` are those of their parts."""
        added = _Added(values)
        labels, size = None if labels_sure else features.labels, len(features.image)

        def multiplier(outputs: Outputs, gradients: Gradients, like: Tensor) -> Tensor:
            with self._refusals_kept():
                arrival = self._scale.arrival(outputs, gradients, like, size, labels)
                share = self._scale.share(arrival, self._together)
            added.times.append((share, arrival))
            return (share * arrival.scale.double()).to(like.dtype)

        observer = self._observer(parts, features)
        output, added.attachment = attach_loss(
            output, total, multiplier, observe=observer, only=BACKWARD[self._backward]
        )
        self._attached.append(added)
        return output

    def _before_backward(self, accumulates: bool) -> None:
        """A loss is about to be back-propagated; see :class:`BackwardWatch`."""
        waiting = [added for added in self._attached if not added.attachment.fired]
        self._together = max(1, len(waiting))
        if accumulates and len(waiting) == len(self._attached):
            self._scale.refuse_kept(optimized_parameters(self._trainer))

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Inside a step: gradients taken of the trainer's loss leave the regularizers out."""
        for added in self._attached:
            added.attachment.muted = True
        try:
            yield
        finally:
            for added in self._attached:
                added.attachment.muted = False

    def measure_gradients(self, parameters: Sequence[nn.Parameter], scale: Tensor, found: dict[str, float]) -> None:
        """Inside a step, before its backward pass: put the norm of each weighted part's gradient into ``found``.

        They are there after the step, since a balanced weight may be set in its backward pass. Not finite ones, which
        a loss ``scale`` can bring about, are left out.
        """
        norms = [strength * gradient_norm(part, parameters, scale) / scale for part, strength in self._live.values()]
        self._norms = found, dict(zip(self._live, torch.stack(norms).tolist(), strict=True)) if norms else {}

    def _weighted(self, name: str, part: Tensor, strength: float) -> Tensor:
        weighted = Weighted.apply(part, self.balance, name) if name in self.balance else part
        return weighted if strength == 1 else weighted * strength

    def _observer(self, parts: dict[str, Tensor], features: FeatureBatch) -> Observer | None:
        """What looks at the gradients of this step for balanced weights; None where they are not wanted."""
        if not self.balance.pending:
            return None
        early = {regularizer: regularizer.undeveloped(features) for regularizer in self.regularizers}
        owners = ((name, *self._sources[name]) for name in parts)
        ready = {name: parts[name] for name, regularizer, part in owners if part not in early[regularizer]}
        where = f"step {self._steps}{self._position()}"
        return lambda outputs, gradients, scale: self.balance.observe(ready, outputs, gradients, scale, where)

    def _compute(self, features: FeatureBatch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for regularizer in self.regularizers:
            for part, value in checked_parts(regularizer, regularizer.compute(features)).items():
                name = f"{regularizer.name}_{part}" if part in parts else part
                parts[name], self._sources[name] = value, (regularizer, part)
                if part in regularizer.gradient_fractions:
                    fraction = regularizer.gradient_fractions[part]
                    self.balance.want(name, Target(fraction, regularizer.gradient_momentum))
        if not parts:
            names = ", ".join(regularizer.name for regularizer in self.regularizers)
            raise HookError(f"The active regularizers ({names}) returned no parts: compute() must give one.")
        dtype = torch.promote_types(features.text.dtype, features.image.dtype)
        return {name: value.to(dtype) for name, value in parts.items()}

    def _finite_values(
        self, parts: dict[str, Tensor], strengths: dict[str, float], features: FeatureBatch
    ) -> dict[str, float]:
        """The parts on the host, by one transfer; stop before the backward pass if one is not finite."""
        stacked = torch.stack([part.detach() for part in parts.values()])
        values = dict(zip(parts, stacked.tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"Part {name!r} of the regularizer is {value} in training step "
                    f"{self._steps}{self._position()}; finite features: text "
                    f"{bool(features.text.isfinite().all())}, image {bool(features.image.isfinite().all())}. "
                    "The parameters were not updated: lower the learning rate, train in fp32, or go back to "
                    "the last good checkpoint."
                )
        return {name: value * strengths[name] for name, value in values.items()}

    def _progress(self) -> float:
        """Finished steps as a fraction of all, of epochs where the trainer does not count steps; 0 if nobody needs it.

        Raises HookError where a regularizer needs it and the trainer does not say.
        """
        needing = [regularizer.name for regularizer in self.regularizers if regularizer.needs_progress]
        if not needing:
            return 0.0
        epoch, epochs, batch, batches = self._numbers("epoch", "max_epoch", "batch_idx", "num_batches")
        if epoch is None or not epochs:
            raise HookError(
                f"{needing[0]} follows a schedule, but {type(self._trainer).__name__} does not say how far it is: set "
                "trainer.epoch and trainer.max_epoch (and batch_idx, num_batches), numbers as in Dassl, or take no "
                "schedule."
            )
        within = min(batch / batches, 1.0) if batch is not None and batches else 0.0
        return min(max((epoch + within) / epochs, 0.0), math.nextafter(1.0, 0.0))

    def _numbers(self, *names: str) -> list[Any]:
        """The trainer's attributes; None for one that it lacks, or uses for something else than a number."""
        values = (getattr(self._trainer, name, None) for name in names)
        return [value if isinstance(value, Real) and math.isfinite(value) else None for value in values]

    def _position(self) -> str:
        epoch, batch = self._numbers("epoch", "batch_idx")
        return "" if epoch is None or batch is None else f" (epoch {epoch + 1}, batch {batch + 1})"

    def _check_back_propagated(self) -> None:
        if not self._attached:
            raise HookError(
                f"forward_backward did not run trainer.model ({type(self._model).__name__}) with gradients on, or ran "
                "it past its hooks (self.model.forward(...), a copy, a compiled copy), so nothing was regularized: "
                "detach() the hook for steps without a loss, or use CPTLoss in your own training loop."
            )
        if not all(added.attachment.done for added in self._attached):
            raise HookError(
                "The regularizer was computed but never back-propagated: no loss that uses what the model returned was "
                "back-propagated in this step. If only the first of several forwards in a step is trained, "
                'CPTHook(forwards="first") leaves the others alone (in the runner --forwards first); passes that are '
                "not trained belong under torch.no_grad()."
            )

    def _report(self, summary: Any) -> None:
        """Parts of this step as they were added to the trainer's loss, also into the trainer's summary.

        That is the sum over the model's forwards and their back-propagations, each with what its loss was multiplied by
        apart from the loss scale: 1 for a loss that is back-propagated as it is, 1/2 where two forwards are averaged. A
        name that the trainer's summary has already gets ``cpt_`` before it.
        """
        sums: dict[str, float] = {}
        for added, share in zip(self._attached, self._checked_shares(), strict=True):
            for name, value in added.values.items():
                sums[name] = sums.get(name, 0.0) + value * share
        self.parts = {n: value * self._factor(n) for n, value in sums.items()}
        self.total = sum(self.parts.values())
        found, norms = self._norms
        found.update({n: norm * self._factor(n) for n, norm in norms.items() if math.isfinite(norm)})
        if isinstance(summary, dict):
            logged = {"reg": self.total, **self.parts}
            taken = {name for name in logged if f"loss_{name}" in summary}
            summary.update({f"{'cpt_' * (n in taken)}loss_{n}": value for n, value in logged.items()})

    def _checked_shares(self) -> list[float]:
        """What each forward's regularizers were multiplied by in this step, the loss scale apart, by one transfer.

        Raises HookError if what was seen does not lead to that; see :meth:`LossScale.check`.
        """
        shares = torch.stack([torch.stack([share for share, _ in added.times]).sum() for added in self._attached])
        arrivals = [arrival for added in self._attached for _, arrival in added.times]
        seen = [arrival.numbers().to(shares.device) for arrival in arrivals]
        values = iter(torch.cat([shares, *seen]).tolist())
        found = list(islice(values, len(shares)))
        for arrival, numbers in zip(arrivals, seen, strict=True):
            self._scale.check(Seen.of(arrival, list(islice(values, len(numbers)))), self._together)
        return found

    def _factor(self, name: str) -> float:
        return self.balance.factor(name) if name in self.balance else 1.0


def _batches(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of ``forward_backward``: batches, or the tensors of one."""
    return (arguments,) if arguments and isinstance(arguments[0], Tensor) else arguments
