"""Our trainers on the problems of the parity tests, without data loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.encoders import freeze_clip, resolve_precision
from cpt_plugin.toolkit import TRAINER_REGISTRY, TrainerBase
from tests.parity.problems import EPOCH_LENGTH, OPTIM, Problem, batches, prompts_like
from trainers.promptsrc import PromptSRC


@dataclass
class OurRun:
    initial: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    trained: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    terms: dict[str, float] = field(default_factory=dict)
    own_gradients: dict[str, Tensor] = field(default_factory=dict)


def run_ours(case: Problem, weights: str) -> OurRun:
    """Starting values, logits and gradients on the first batch, and the 20 training steps."""
    trainer = build(case, weights)
    images, labels = batches(case.torch_dtype)
    if case.trainer == "ZeroshotCLIP":
        return OurRun(logits=trainer.model_inference(images[0]).detach())
    learner = trainer.model.prompt_learner
    own = {name: value.detach().clone() for name, value in learner.named_parameters()}
    start = prompts_like({name: tuple(value.shape) for name, value in own.items()}, case.torch_dtype)
    run = OurRun(initial=own, start=start)
    learner.load_state_dict(start)
    logits = trainer.model(images[0])
    F.cross_entropy(logits, labels[0]).backward()
    run.logits = logits.detach()
    run.gradients = {name: value.grad.clone() for name, value in learner.named_parameters()}
    with wide_losses() if case.dtype == "float64" else nullcontext():
        _own_loss(trainer, run, images[0], labels[0])
        train_steps(trainer, run, images, labels)
    return run


def _own_loss(trainer: Any, run: OurRun, image: Tensor, label: Tensor) -> None:
    """The terms of the method's own loss and their gradient, without a step."""
    learner = trainer.model.prompt_learner
    learner.zero_grad()
    terms = trainer.loss_parts(trainer.model(image, label, with_features=True), image, label)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    run.terms = {name: value.item() for name, value in terms.items()} | {"total": total.item()}
    run.own_gradients = {name: value.grad.clone() for name, value in learner.named_parameters()}


def wide_losses() -> Any:
    """Keeps the losses, which our trainers compute in float32, in float64."""
    narrow = Tensor.float
    return patch.object(Tensor, "float", lambda self: self if self.is_floating_point() else narrow(self))


def build(case: Problem, weights: str) -> Any:
    """A trainer with its model, optimizer and schedule, in the type of the case."""
    values = {
        "MODEL.BACKBONE.NAME": weights,
        "INPUT.SIZE": (case.resolution, case.resolution),
        "DATASET.NAME": case.dataset,
        **{f"TRAINER.{case.node}.{key}": value for key, value in case.options.items()},
    }
    if case.node:
        values[f"TRAINER.{case.node}.PREC"] = "fp32"
    trainer = without_data(case.trainer, case.names, values, torch.device("cpu"))
    if case.dtype == "float64":
        _build_wide(trainer, weights)
    else:
        trainer.build_model()
    return trainer


def without_data(name: str, class_names: Sequence[str], values: Mapping[str, Any], device: torch.device) -> Any:
    """A trainer with these settings and OPTIM, which has neither data loaders nor, yet, a model."""
    cfg = default_cfg()
    values = {**{f"OPTIM.{key}": value for key, value in OPTIM.items()}, **values}
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cls = TRAINER_REGISTRY.get(name)
    trainer = cls.__new__(cls)
    TrainerBase.__init__(trainer)
    trainer.cfg, trainer.device, trainer.num_classes = cfg, device, len(class_names)
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=list(class_names)))
    return trainer


def _build_wide(trainer: Any, weights: str) -> None:
    """Builds the model in float64."""

    def load(precision: str) -> Any:
        trainer.precision = resolve_precision("fp32", "cpu")
        state = torch.load(weights, weights_only=True)
        return freeze_clip(state, "tiny", "tiny", dtype=torch.float64)

    trainer.load_frozen_clip = load
    trainer.build_model()
    trainer.model.prompt_learner.double()


def train_steps(trainer: Any, run: OurRun, images: Tensor, labels: Tensor) -> None:
    """The training steps of all batches, with rates, losses and the prompts at the end."""
    trainer.num_batches, trainer.max_epoch = EPOCH_LENGTH, OPTIM["MAX_EPOCH"]
    for step, (image, label) in enumerate(zip(images, labels, strict=True)):
        trainer.epoch, trainer.batch_idx = divmod(step, EPOCH_LENGTH)
        run.rates.append(trainer.get_current_lr())
        run.losses.append(trainer.forward_backward({"img": image, "label": label})["loss"])
        if trainer.batch_idx + 1 == EPOCH_LENGTH and isinstance(trainer, PromptSRC):
            trainer.average_prompts()
    learner = trainer.model.prompt_learner
    run.trained = {name: value.detach().clone() for name, value in learner.named_parameters()}
