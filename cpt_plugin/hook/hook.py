"""CPTHook: adds regularizers to the training of any Dassl-style prompt trainer, without editing it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook.balance import gradient_norm
from cpt_plugin.hook.checks import (
    attached_models,
    check_trainer,
    resolve_class_counts,
    resolve_class_names,
    shared_template,
)
from cpt_plugin.hook.features import Stated
from cpt_plugin.hook.frozen import FrozenSources
from cpt_plugin.hook.reading import IMAGE_MODULE, TEXT_MODULE, Reading
from cpt_plugin.hook.step import RegularizedStep
from cpt_plugin.long_tail_losses import LongTailLoss
from cpt_plugin.parts import Part
from cpt_plugin.regularizers import Regularizer, build


class CPTHook:
    """Regularizers waiting for a trainer; one hook serves one trainer at a time.

    regularizers: the parts to add; default: CPT, with its options as keywords (``weight_etf=0.25, ...``).
    frozen_text: (K, d) features of the frozen text encoder. Default: ``trainer.frozen_text_features()``, or of
    the regularizers' ``template`` where they name one: ``trainer.frozen_text_features(template=...)``. For a
    trainer without that method: the class names in the template (the data set's own, ``cfg.DATASET.NAME``, else
    "a photo of a {}." with a logged note), encoded by the CLIP that the trainer names, which must have the weights
    that its text encoder runs on.
    class_names: K names in the order of the labels, default ``trainer.dm.dataset.classnames``.
    prototypes: (K, d) means over each class of frozen CLIP's unit image features, not scaled again, for
    regularizers that need them. Default: ``trainer.frozen_image_prototypes()``, or computed from
    ``trainer.dm.dataset.train_x`` in the test loader's view with the CLIP that the trainer names.
    counts: (K,) training images of each class, for regularizers that need them. Default:
    ``trainer.dm.class_counts``, or counted in ``trainer.dm.dataset.train_x``.
    text, image: paths of the modules of ``trainer.model`` whose outputs are the features. For modules that hold no CLIP
    (``text="prompt_learner"`` in TaskRes) give ``frozen_text=`` as well.
    features: where their outputs are not the features as they are: a function that is given each forward of the model
    (:class:`~cpt_plugin.hook.features.StepView`) and returns (text (K, d) or (B, K, d), image (B, d)), e.g.
    ``lambda step: (step.text[0], step.image[0])`` where the text encoder is called several times.
    labels: where they are neither the model's argument nor ``batch["label"]``: a function of the same that returns the
    (B,) labels.
    accumulation: what the trainer divides its loss by; 1 says that all factors belong to the loss itself. Needed only
    where a refusal asks for it, because it cannot be told from the gradient that arrives
    (:mod:`cpt_plugin.hook.scale`).
    forwards: "first" regularizes the first forward of the model in a training step only, "each" all of them.
    backward: "first" or "second" adds the regularizer to that of several back-propagations of one output (in ProGrad
    the second is the one that trains); with "once" several are refused.

    Example: ``handle = CPTHook(weight_etf=0.25, cluster_size=2).attach(trainer)``, ``trainer.train()``,
    ``handle.detach()``; or ``with CPTHook(...).attach(trainer): trainer.train()``.

    Raises ConfigError for unknown or contradictory options.
    """

    def __init__(
        self,
        *,
        regularizers: Sequence[Regularizer] | None = None,
        frozen_text: Tensor | None = None,
        class_names: Sequence[str] | None = None,
        prototypes: Tensor | None = None,
        counts: Sequence[int] | None = None,
        text: str = TEXT_MODULE,
        image: str = IMAGE_MODULE,
        features: Stated | None = None,
        labels: Stated | None = None,
        accumulation: int | None = None,
        forwards: str = "each",
        backward: str = "once",
        **cpt_kwargs: Any,
    ) -> None:
        if regularizers is not None and cpt_kwargs:
            raise ConfigError(
                f"Options of CPT ({', '.join(cpt_kwargs)}) and regularizers= were both given: set the "
                "options on the regularizers, or leave regularizers= out."
            )
        self._regularizers = _cpt(cpt_kwargs) if regularizers is None else list(regularizers)
        if strangers := [type(part).__name__ for part in self._regularizers if not isinstance(part, Part)]:
            raise ConfigError(
                f"regularizers= holds {', '.join(strangers)}: give objects of classes derived from "
                "cpt_plugin.regularizers.Regularizer, e.g. cpt_plugin.regularizers.build(['cpt'], {})."
            )
        if losses := [part.name for part in self._regularizers if isinstance(part, LongTailLoss)]:
            raise ConfigError(
                f"{losses[0]} replaces the cross-entropy, which a trainer computes itself: of that, a hook sees the "
                "gradient only. Use the loss (cpt_plugin.functional) in the trainer, or this repository's trainers."
            )
        self._frozen_text = frozen_text
        self._class_names = class_names
        self._prototypes = prototypes
        self._counts = counts
        self._reading = Reading(text, image, features, labels, accumulation, forwards, backward)
        self._handle: HookHandle | None = None

    def attach(self, trainer: Any) -> HookHandle:
        """Regularize ``trainer`` until ``detach()`` of the returned handle.

        Only this instance is changed: its ``forward_backward``, and hooks on its ``model`` and the model's two
        encoders; inside a step, calls of ``backward()`` and ``GradScaler.scale`` are watched. With all weights 0
        nothing is changed, read or drawn, and ``handle.active`` is False.

        Raises HookError, with the reason and a remedy, if the trainer cannot be regularized; ConfigError if the
        regularizers name different templates, or one beside given ``frozen_text``; DataError if prototypes are
        needed and a class has no training image.
        """
        regularizers = [regularizer for regularizer in self._regularizers if regularizer.active]
        if not regularizers:
            return HookHandle()
        if self._handle is not None and self._handle.active:
            raise HookError("This CPTHook is attached already: detach() its handle, or make another CPTHook.")
        check_trainer(trainer)
        encoders = self._reading.encoders(trainer.model)
        class_names = resolve_class_names(trainer, self._class_names)
        sources = FrozenSources(trainer, class_names, encoders)
        frozen_text = sources.text(self._frozen_text, shared_template(regularizers))
        for regularizer in regularizers:
            regularizer.prepare(frozen_text, class_names)
        if waiting := [regularizer for regularizer in regularizers if regularizer.needs_prototypes]:
            prototypes = sources.prototypes(self._prototypes, frozen_text.shape[1])
            for regularizer in waiting:
                regularizer.prepare_prototypes(prototypes)
        if counting := [regularizer for regularizer in regularizers if regularizer.needs_counts]:
            counts = resolve_class_counts(trainer, self._counts, len(class_names))
            for regularizer in counting:
                regularizer.prepare_counts(counts)
        step = RegularizedStep(trainer, regularizers, frozen_text, self._reading)
        self._handle = HookHandle(step)
        return self._handle


class HookHandle:
    """What :meth:`CPTHook.attach` returns; inactive if there was nothing to attach, or after ``detach()``."""

    def __init__(self, step: RegularizedStep | None = None) -> None:
        self._step = step
        self.regularizers: tuple[Regularizer, ...] = tuple(step.regularizers) if step else ()
        self.digest: str = _combined_digest(self.regularizers)

    @classmethod
    def of(cls, trainer: Any) -> HookHandle:
        """Handle of what is attached to the model of ``trainer`` now, by whoever; inactive if nothing is."""
        attached = attached_models.get(trainer.model)
        return cls(attached() if attached is not None else None)

    @property
    def active(self) -> bool:
        """Whether training is regularized now."""
        return self._step is not None and self._step.installed

    @property
    def parts(self) -> dict[str, float]:
        """Weighted parts of the regularizer in the last training step, by name; they sum to ``total``."""
        return dict(self._step.parts) if self._step else {}

    @property
    def total(self) -> float:
        """The regularizer in the last training step; 0 before the first."""
        return self._step.total if self._step else 0.0

    @property
    def factors(self) -> dict[str, float]:
        """Weights that balancing has set, by part; 0 for a part that has had no gradient yet."""
        return self._step.balance.factors if self._step else {}

    @property
    def parts_without_gradient(self) -> tuple[str, ...]:
        """Names of parts that reach nothing that is trained, as the first step tells; they regularize nothing."""
        return self._step.coverage.parts_without_gradient if self._step else ()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What balanced weights rest on (``balance``), and each of the ``regularizers`` has learned, as plain numbers.

        To be saved, and put back if training is interrupted.
        """
        if not self._step:
            return {}
        learned = {regularizer.name: regularizer.state_dict() for regularizer in self.regularizers}
        return {"balance": self._step.balance.state_dict(), "regularizers": learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state_dict` gave, in this version or an earlier one."""
        if not self._step:
            return
        if not isinstance(state.get("balance"), Mapping):
            state = _structured(state, [regularizer.name for regularizer in self.regularizers])
        self._step.balance.load_state_dict(state["balance"])
        for regularizer in self.regularizers:
            regularizer.load_state_dict(state["regularizers"].get(regularizer.name, {}))

    def measure_gradients(
        self, loss: Tensor, parameters: Sequence[nn.Parameter], scale: Tensor, found: dict[str, float]
    ) -> None:
        """Inside a training step, before its backward pass: norms of gradients on ``parameters``, by name.

        ``main`` is the trainer's own loss, without the regularizers; the others, each weighted, are in ``found`` after
        the step. Nothing of the step changes: its graph is kept, and no gradient is accumulated.

        loss: the trainer's loss; scale: multiplier under which gradients are taken (AMP), divided out again.
        """
        with self._step.muted() if self._step else nullcontext():
            main = gradient_norm(loss, parameters, scale) / scale
        if main.isfinite():
            found["main"] = main.item()
        if self._step:
            self._step.measure_gradients(parameters, scale, found)

    def describe(self) -> list[str]:
        """Log lines about the regularizers: clusters, sizes, weights."""
        return [line for regularizer in self.regularizers for line in regularizer.describe()]

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Leave the trainer as it was before ``attach``; a second call does nothing."""
        if self._step is not None:
            self._step.uninstall()


def _cpt(options: dict[str, Any]) -> list[Regularizer]:
    return build(["cpt"], {"CPT": {name.upper(): value for name, value in options.items()}})


def _structured(flat: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A state of earlier versions: norms by part, and beside them what a regularizer has learned, as ``name.key``."""
    balance, learned = dict(flat), {}
    for name in names:
        own = [key for key in balance if key.startswith(f"{name}.")]
        learned[name] = {key.removeprefix(f"{name}."): balance.pop(key) for key in own}
    return {"balance": balance, "regularizers": learned}


def _combined_digest(regularizers: Sequence[Regularizer]) -> str:
    """SHA-256 over the regularizers' names and digests; empty without regularizers."""
    if not regularizers:
        return ""
    lines = "".join(f"{regularizer.name}={regularizer.digest()}\n" for regularizer in regularizers)
    return hashlib.sha256(lines.encode()).hexdigest()
