"""Short trainings of a released trainer: plain, with the hook, and with the same loss added by hand."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpt_plugin import CPTHook
from tests.parity.foreign_cases import STEPS, Case
from tests.parity.foreign_setup import configuration
from tests.runner.released import events

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image features, text features, labels) -> scalar."""


def build(train: Any, case: Case, folder: Path, **more: Any) -> Any:
    """The released trainer, built by Dassl with data loaders, optimizer and schedule."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    set_random_seed(1)
    return build_trainer(configuration(train, case, folder, **more))


def prerequisites(train: Any, case: Case, folder: Path) -> None:
    """What a trainer needs from an earlier run of its repository: DAPT's prototypes, DPC's first stage."""
    if case.trainer == "DAPT":
        build(train, case, folder, **{"TRAINER.DAPT.PROTOTYPE_GEN": True})
    if case.trainer == "StackSPLE_CoOp":
        first = build(train, case, folder, **{"TRAINER.NAME": "CoOp"})
        steps(first, 1)
        first.save_model(0, str(folder / "stage-one"))


def generators() -> str:
    """Hash of the states of the three global random number generators."""
    states = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate())  # noqa: NPY002
    return hashlib.sha256(repr(states).encode()).hexdigest()


def seed() -> None:
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)


def steps(trainer: Any, count: int = STEPS) -> dict[str, Any]:
    """Training steps on the trainer's own loader: gradients of the first, all states, summaries, generators."""
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.epoch, summaries = len(trainer.train_loader_x), 0, []
    gradients: dict[str, Tensor] = {}
    for index, batch in zip(range(count), trainer.train_loader_x, strict=False):
        trainer.batch_idx = index
        summaries.append(trainer.forward_backward(batch))
        if index == 0:
            gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    state = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    optimizer = trainer.optim.state_dict()["state"]
    momenta = {f"{i}.{k}": v.clone() for i, s in optimizer.items() for k, v in s.items() if isinstance(v, Tensor)}
    return {"gradients": gradients, "state": state | momenta, "summaries": summaries, "generators": generators()}


def run(train: Any, case: Case, folder: Path, hook: CPTHook | None = None) -> dict[str, Any]:
    """One short training, plain or with a hook that finds everything by itself."""
    trainer = build(train, case, folder)
    seed()
    before = generators()
    handle = hook.attach(trainer) if hook else None
    result: dict[str, Any] = {"attaching drew": generators() != before}
    result |= steps(trainer)
    if handle is not None:
        result |= {"parts": handle.parts, "regularizers": handle.regularizers}
        handle.detach()
    return result


def run_by_hand(train: Any, case: Case, folder: Path, loss: Loss) -> dict[str, Any]:
    """The same training with main loss + ``loss``, without the package's hook.

    The two encoders' ``forward`` note what they return; ``Tensor.backward`` adds the loss of what was noted.
    """
    trainer = build(train, case, folder)
    seed()
    noted: dict[str, Any] = {}

    def noting(kind: str) -> None:
        encoder = getattr(trainer.model, f"{kind}_encoder")
        forward = encoder.forward

        def forward_and_note(*args: Any, **kwargs: Any) -> Tensor:
            output = forward(*args, **kwargs)
            if torch.is_grad_enabled():
                noted[kind].append(output)
            return output

        encoder.forward = forward_and_note

    noting("text")
    noting("image")
    parser = "parse_sple_batch_train" if hasattr(trainer, "parse_sple_batch_train") else "parse_batch_train"
    parse, step, backward = getattr(trainer, parser), trainer.forward_backward, Tensor.backward

    def parse_and_note(batch: Any) -> Any:
        image, noted["labels"] = parse(batch)
        return image, noted["labels"]

    def backward_of_sum(main: Tensor, *args: Any, **kwargs: Any) -> None:
        text = noted["text"][0] if len(noted["text"]) == 1 else torch.stack(noted["text"])
        (image,) = noted["image"]
        backward(main + loss(image, text, noted["labels"]).to(main.dtype), *args, **kwargs)

    def step_by_hand(batch: Any) -> Any:
        noted.update(text=[], image=[])
        Tensor.backward = backward_of_sum  # type: ignore[method-assign]
        try:
            return step(batch)
        finally:
            Tensor.backward = backward  # type: ignore[method-assign]

    setattr(trainer, parser, parse_and_note)
    trainer.forward_backward = step_by_hand
    return steps(trainer)


def whole_training(train: Any, case: Case, folder: Path, hook: CPTHook) -> dict[str, Any]:
    """``trainer.train()`` for one epoch with the hook: log lines, TensorBoard, results of the test."""
    output = folder / f"run-{case.trainer}"
    shutil.rmtree(output, ignore_errors=True)
    trainer = build(train, case, folder, OUTPUT_DIR=str(output), **{"OPTIM.MAX_EPOCH": 1})
    handle, text = hook.attach(trainer), io.StringIO()
    with contextlib.redirect_stdout(text):
        trainer.train()
    handle.detach()
    return {
        "lines": [line for line in text.getvalue().splitlines() if line.startswith("epoch [")],
        "events": events(output),
        "parts": handle.parts,
        "accuracies": re.findall(r"\* accuracy: ([\d.]+)%", text.getvalue()),
    }
