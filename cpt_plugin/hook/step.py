"""One training step of a hooked trainer: ``forward_backward`` with the regularizers added to what it does."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.errors import HookError, TrainingError
from cpt_plugin.functional._normalize import working_dtype
from cpt_plugin.hook.attach import Attachment, Gradients, Observer, Outputs, attach_loss
from cpt_plugin.hook.balance import GradientBalance, Target, Weighted, gradient_norm, reaches, trained_parameters
from cpt_plugin.hook.checks import attached_models
from cpt_plugin.hook.coverage import Coverage
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


class RegularizedStep:
    """Stands in for ``trainer.forward_backward`` and adds the regularizers to what it does.

    Attributes:
        regularizers: the active ones.
        installed: whether it stands there now.
        parts, total: weighted parts and their sum, of the last step.
        balance: what sets balanced weights.
        parts_without_gradient: names of parts that reached nothing trained, in the first step in which they occurred.
    """

    def __init__(self, trainer: Any, regularizers: list[Regularizer], text_shape: torch.Size, reading: Reading) -> None:
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
        classes, width = text_shape
        self._features = Features(classes, width, reading.features, names, self._taps.traced)
        self._labels = Labels(self._model, reading.labels)
        self._watch = BackwardWatch()
        self._scale = LossScale(trainer, classes, reading.accumulation, self._watch)
        self.coverage = Coverage(trainer, encoders, names)
        self.failed = False
        self.balance = GradientBalance(trainer)
        self.parts_without_gradient: tuple[str, ...] = ()
        self._looked_at: set[str] = set()
        self._reaching: dict[str, bool] = {}
        self._profile = profile_of(trainer)
        self._steps = 0
        self._batches: tuple[Any, ...] = ()
        self._attachments: list[Attachment] = []
        self._values: list[tuple[dict[str, float], Attachment]] = []
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
        if self._trainer.model is not self._model:
            raise HookError("trainer.model was replaced after the hook was attached: detach(), attach again.")
        self._steps += 1
        self._attachments.clear()
        self._values.clear()
        self._norms = {}, {}
        self._batches = (*args, *kwargs.values())
        self._running, self.failed = True, True
        try:
            with self._taps.armed(), self._watch.watching():
                summary = self._original(*args, **kwargs)
        finally:
            self._running = False
            self._live, self._batches = {}, ()
        self._check_back_propagated()
        self._warn_of_parts_without_gradient()
        self.coverage.end_of_step()
        self._report(summary)
        self.failed = False
        return summary

    def _timed(self, forward: Forward) -> Any:
        with self._profile.section("regularizer"):
            return self._regularize(forward)

    def _regularize(self, forward: Forward) -> Any:
        """Called at the end of the model's forward; returns its output with the regularizers attached."""
        text, image = self._features(forward)
        self._taps.without_gradient.update(k for k, f in (("text", text), ("image", image)) if not f.requires_grad)
        labels, from_batch = self._labels(forward, self._batches, len(image), again=bool(self._attachments))
        features = FeatureBatch(
            text=text.to(working_dtype(text)), image=image.to(working_dtype(image)), labels=labels.to(image.device)
        )
        features.progress = self._progress()
        with torch.autocast(device_type=features.image.device.type, enabled=False):
            parts = self._compute(features)
            self._look_for_gradients(parts)
            strengths = {name: self._sources[name][0].strength(features) for name in parts}
            total = torch.stack([self._weighted(name, part, strengths[name]) for name, part in parts.items()]).sum()
        if not total.requires_grad:
            constant = dict.fromkeys(filter(None, map(self._remedy_of_constant, parts)))
            advice = "".join(f" {remedy[0].upper()}{remedy[1:]}." for remedy in constant)
            raise HookError(
                f"Nothing to regularize: no gradient flows back from the parts {', '.join(parts)} (text "
                f"features require a gradient: {features.text.requires_grad}, image features: "
                f"{features.image.requires_grad}). Train prompts of the encoder that these parts act on, run "
                "that encoder with gradients on (no torch.no_grad, no checkpointing with "
                f"use_reentrant=True), or set the weights to 0.{advice}"
            )
        values = self._finite_values(parts, strengths, features)
        self.coverage.of_forward(forward, text, image, total)
        self._live = {name: (part, strengths[name]) for name, part in parts.items()}
        return self._attach(forward.output, total, values, features, parts, from_batch)

    def _attach(
        self,
        output: Any,
        total: Tensor,
        values: dict[str, float],
        features: FeatureBatch,
        parts: dict[str, Tensor],
        from_batch: bool,
    ) -> Any:
        """The model's output with the regularizers' sum attached; ``values`` are those of their parts."""
        unsure = features.labels if from_batch else None

        def scale(outputs: Outputs, gradients: Gradients, like: Tensor) -> Tensor:
            return self._scale(outputs, gradients, like, len(self._attachments), unsure)

        output, attachment = attach_loss(
            output,
            total,
            scale,
            observe=self._observer(parts, features),
            loss_scale=self._watch.loss_scale,
            only=BACKWARD[self._backward],
        )
        self._attachments.append(attachment)
        self._values.append((values, attachment))
        return output

    def _look_for_gradients(self, parts: dict[str, Tensor]) -> None:
        """Note of each part, in the first step in which it occurs, whether its gradient reaches what is trained."""
        new = [name for name in parts if name not in self._looked_at]
        parameters = [p for p in trained_parameters(self._trainer) if p.numel()] if new else []
        for name in new:
            idle = self._remedy_of_constant(name) is not None
            reaching = self._reaching.get(name) or (not idle and reaches(parts[name], parameters))
            self._reaching[name] = reaching

    def _remedy_of_constant(self, name: str) -> str | None:
        """What the regularizer advises against a part that is the same for all features; None for other parts."""
        regularizer, part = self._sources[name]
        return regularizer.remedy_of_constant_part(part) if part in regularizer.constant_parts() else None

    def _warn_of_parts_without_gradient(self) -> None:
        """Say at the end of a step which of the parts that are new in it have no gradient."""
        idle = [name for name, reaching in self._reaching.items() if not reaching]
        self._looked_at |= self._reaching.keys()
        self._reaching = {}
        if not idle:
            return
        self.parts_without_gradient += tuple(idle)
        advised: dict[str, list[str]] = {}
        for name in idle:
            remedy = self._remedy_of_constant(name)
            advice = "train prompts of the encoder that it acts on, or " if remedy is None else f"{remedy}, or "
            advised.setdefault(advice if remedy != "" else "", []).append(name)
        for advice, names in advised.items():
            named = ", ".join(f"{name} of {self._sources[name][0].name}" for name in names)
            LOG.warning(
                f"Without a gradient, step {self._steps}{self._position()}: {named}. Nothing that "
                f"{type(self._trainer).__name__} trains changes it, so it is logged but regularizes nothing: {advice}"
                "set its weight to 0."
            )

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Inside a step: gradients taken of the trainer's loss leave the regularizers out."""
        for attachment in self._attachments:
            attachment.muted = True
        try:
            yield
        finally:
            for attachment in self._attachments:
                attachment.muted = False

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
        if not self._attachments:
            raise HookError(
                f"forward_backward did not run trainer.model ({type(self._model).__name__}) with gradients on, or ran "
                "it past its hooks (self.model.forward(...), a copy, a compiled copy), so nothing was regularized: "
                "detach() the hook for steps without a loss, or use CPTLoss in your own training loop."
            )
        if not all(attachment.done for attachment in self._attachments):
            raise HookError(
                "The regularizer was computed but never back-propagated: no loss that uses what the model returned was "
                "back-propagated in this step. If only the first of several forwards in a step is trained, "
                'CPTHook(forwards="first") leaves the others alone (in the runner --forwards first); passes that are '
                "not trained belong under torch.no_grad()."
            )

    def _report(self, summary: Any) -> None:
        """Parts of this step as they were added to the trainer's loss, also into the trainer's summary.

        That is the sum over the model's forwards, each with what its loss was multiplied by apart from the loss scale:
        1 for a loss that is back-propagated as it is, 1/2 where two forwards are averaged.
        """
        shares = self._shares()
        names = dict.fromkeys(name for values, _ in self._values for name in values)
        added = {
            name: sum(values.get(name, 0.0) * share for (values, _), share in zip(self._values, shares, strict=True))
            for name in names
        }
        self.parts = {n: value * self._factor(n) for n, value in added.items()}
        self.total = sum(self.parts.values())
        found, norms = self._norms
        found.update({n: norm * self._factor(n) for n, norm in norms.items() if math.isfinite(norm)})
        if isinstance(summary, dict):
            summary["loss_reg"] = self.total
            summary.update({f"loss_{name}": value for name, value in self.parts.items()})

    def _shares(self) -> list[float]:
        """What each forward's regularizer was multiplied by in this step, the loss scale apart, by one transfer."""
        shares = [torch.stack(attachment.shares).sum() for attachment in self._attachments]
        factor = [] if self._watch.factor is None else [self._watch.factor.to(shares[0].device)]
        numbers = torch.stack([*shares, *factor]).tolist()
        if factor:
            self._scale.check_factor(numbers.pop())
        return numbers

    def _factor(self, name: str) -> float:
        return self.balance.factor(name) if name in self.balance else 1.0
