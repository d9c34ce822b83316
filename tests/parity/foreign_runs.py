"""Short trainings of a released trainer: plain, with the hook, and with the same loss added by hand."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import io
import pkgutil
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpt_plugin.hook import HookHandle
from tests.parity.foreign_cases import STEPS, ByHand, Case
from tests.parity.foreign_setup import configuration
from tests.runner.released import events

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image features, text features, labels) -> scalar."""
Attach = Callable[[Any], HookHandle]
"""Attaches a hook to a trainer."""


def build(train: Any, case: Case, folder: Path, **more: Any) -> Any:
    """The released trainer, built by Dassl with data loaders, optimizer and schedule."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    set_random_seed(1)
    return build_trainer(configuration(train, case, folder, **more))


def prerequisites(train: Any, case: Case, folder: Path) -> None:
    """What a trainer needs from an earlier run of its repository."""
    case.before(functools.partial(build, train, case, folder), folder)


def generators() -> str:
    """Hash of the states of the three global random number generators."""
    states = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate())  # noqa: NPY002
    return hashlib.sha256(repr(states).encode()).hexdigest()


def seed() -> None:
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)


def steps(trainer: Any, count: int = STEPS) -> dict[str, Any]:
    """Training steps on the trainer's own loader: gradients of the first, all states, summaries, generators.

    A trainer whose steps take a second batch gets one of its loader of validation images, as in its own epochs.
    """
    second = len(inspect.signature(type(trainer).forward_backward).parameters) > 2
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.epoch, summaries = len(trainer.train_loader_x), 0, []
    gradients: dict[str, Tensor] = {}
    for index, batch in zip(range(count), trainer.train_loader_x, strict=False):
        trainer.batch_idx = index
        batches = (batch, next(iter(trainer.val_loader))) if second else (batch,)
        summaries.append(trainer.forward_backward(*batches))
        if index == 0:
            gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    state = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    optimizers = [optimizer.state_dict()["state"] for optimizer in trainer._optims.values() if optimizer is not None]
    momenta = {
        f"{o}.{i}.{key}": value.clone()
        for o, states in enumerate(optimizers)
        for i, values in states.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    return {"gradients": gradients, "state": state | momenta, "summaries": summaries, "generators": generators()}


def run(train: Any, case: Case, folder: Path, attach: Attach | None = None) -> dict[str, Any]:
    """One short training, plain or with a hook that finds everything by itself."""
    trainer = build(train, case, folder)
    seed()
    before = generators()
    handle = attach(trainer) if attach else None
    result: dict[str, Any] = {"attaching drew": generators() != before}
    result |= steps(trainer)
    if handle is not None:
        result |= {"parts": handle.parts, "regularizers": handle.regularizers}
        handle.detach()
    return result


def run_by_hand(train: Any, case: Case, folder: Path, loss: Loss) -> dict[str, Any]:
    """The same training with main loss + ``loss``, without the package's hook, see :class:`ByHand`."""
    trainer = build(train, case, folder)
    seed()
    ExplicitSum(trainer, case.by_hand, loss)
    return steps(trainer)


class ExplicitSum:
    """What the encoders return is noted; ``Tensor.backward``, or another function, adds the loss of what was noted."""

    def __init__(self, trainer: Any, by_hand: ByHand, loss: Loss) -> None:
        self._by_hand, self._loss, self._model = by_hand, loss, trainer.model
        self._labels: list[Tensor] = []
        self._texts: list[Any] = []
        self._images: list[Any] = []
        self._added, self._passes = 0, 0
        owner, self._name = by_hand.derivative
        self._owner = pkgutil.resolve_name(owner)
        self._derivative = getattr(self._owner, self._name)
        self._step = trainer.forward_backward
        trainer.forward_backward = self.step
        if by_hand.parser:
            self._parse = getattr(trainer, by_hand.parser)
            setattr(trainer, by_hand.parser, self.parse)
        self._note(trainer.model.get_submodule(by_hand.text), self._texts)
        self._note(trainer.model.get_submodule(by_hand.image), self._images)

    def step(self, *batches: Any) -> Any:
        self._clear()
        self._added = 0
        self._labels.clear()
        if not self._by_hand.parser:
            self._labels += map(self._by_hand.labels, batches)
        setattr(self._owner, self._name, lambda main, *args, **kwargs: self.derivative(main, *args, **kwargs))
        try:
            return self._step(*batches)
        finally:
            setattr(self._owner, self._name, self._derivative)

    def parse(self, batch: Any) -> Any:
        parsed = self._parse(batch)
        self._labels.append(self._by_hand.labels(parsed))
        return parsed

    def derivative(self, main: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._passes += 1
        if self._texts and self._passes > self._by_hand.backward and not (self._by_hand.once and self._added):
            model = (self._model,) if self._by_hand.with_model else ()
            text, image = self._by_hand.features(self._texts, self._images, *model)
            labels = self._labels[min(self._added, len(self._labels) - 1)]
            main = main + self._by_hand.multiplier * self._loss(image, text, labels).to(main.dtype)
            self._added += 1
            self._clear()
        return self._derivative(main, *args, **kwargs)

    def _clear(self) -> None:
        self._texts.clear()
        self._images.clear()
        self._passes = 0

    @staticmethod
    def _note(module: Any, outputs: list[Any]) -> None:
        def note(_: Any, inputs: Any, output: Any) -> None:
            if torch.is_grad_enabled():
                outputs.append(output)

        module.register_forward_hook(note)


def whole_training(train: Any, case: Case, folder: Path, attach: Attach) -> dict[str, Any]:
    """``trainer.train()`` for one epoch with the hook: log lines, TensorBoard, results of the test."""
    output = folder / f"run-{case.trainer}"
    shutil.rmtree(output, ignore_errors=True)
    trainer = build(train, case, folder, OUTPUT_DIR=str(output), **{"OPTIM.MAX_EPOCH": 1})
    handle, text = attach(trainer), io.StringIO()
    with contextlib.redirect_stdout(text):
        trainer.train()
    handle.detach()
    return {
        "lines": [line for line in text.getvalue().splitlines() if line.startswith("epoch [")],
        "events": events(output),
        "parts": handle.parts,
        "accuracies": re.findall(r"\* accuracy: ([\d.]+)%", text.getvalue()),
    }
