"""One training step of a real trainer on a tiny CLIP, in any precision, from prompts that are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from cpt_plugin import toolkit
from cpt_plugin.encoders import Precision, load, resolve_precision
from cpt_plugin.toolkit.embedded.loader import batches
from tests.helpers.prompt_runs import prompt_cfg
from tests.trainers.problems import perturb
from trainers import _base

LEARNERS = ("CoOp", "CoCoOp", "MaPLe", "IVLP", "PromptSRC", "CoOpDPC")
INITIAL_SCALE = 1024.0
"""Of the GradScaler, small enough that no gradient overflows in the first step."""
OPTIONS = (
    "OPTIM.WARMUP_EPOCH", -1, "OPTIM.WEIGHT_DECAY", 0.0, "DATALOADER.NUM_WORKERS", 0,
    "TRAIN.CHECKPOINT_SECONDS", 1000.0, "CPT.WEIGHT_ETF", 1.0, "CPT.WEIGHT_CC", 1.0, "CPT.WEIGHT_RS", 1.0,
    "CPTB.CLUSTER_SIZE", 2,
)  # fmt: skip
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """What a step did; vectors over all trained numbers, float64 on the CPU."""

    start: Tensor
    gradient: Tensor
    update: Tensor
    loss: float
    trainer: Any


@contextmanager
def precisions_of_a_gpu() -> Iterator[None]:
    """Trainers built inside take a precision at its word on a CPU too, where they would fall back to float32."""

    def of_a_gpu(prec: str, device: Any) -> Precision:
        return resolve_precision(prec, "cuda")

    with patch.object(_base, "resolve_precision", of_a_gpu), patch.object(load, "resolve_precision", of_a_gpu):
        yield


def build(folder: Path, output: Path, name: str, prec: str, device: torch.device, *options: Any) -> Any:
    """A trainer before its first step, hook attached, prompts moved off the template, in that precision."""
    node = name.removesuffix("CPTB").removesuffix("CPT").removesuffix("DPC").upper()
    choice = (f"TRAINER.{node}.PREC", prec, "USE_CUDA", device.type == "cuda")
    toolkit.set_random_seed(1)
    with precisions_of_a_gpu():
        trainer = toolkit.build_trainer(prompt_cfg(folder, output, name, *OPTIONS, *choice, *options))
    if prec == "amp":
        assert trainer.scaler.get_scale() == 2**16
        trainer.scaler = torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE)
    assert (trainer.device.type, trainer.precision.name) == (device.type, prec)
    perturb(trainer.model.prompt_learner)
    trainer.before_train()
    trainer.before_epoch()
    trainer.set_model_mode("train")
    trainer.batch_idx = 0
    return trainer


def first_batch(trainer: Any) -> dict[str, Any]:
    return next(iter(batches(trainer.train_loader_x, 0)))


def step(folder: Path, output: Path, name: str, prec: str, device: torch.device, *options: Any) -> Step:
    """The first step of a run."""
    trainer = build(folder, output, name, prec, device, *options)
    trained = [p for p in trainer.model.prompt_learner.parameters() if p.requires_grad]
    start = flat(trained)
    summary = trainer.forward_backward(first_batch(trainer))
    assert trainer.skipped_steps == 0
    gradient = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in trained])
    return Step(start, gradient, flat(trained) - start, summary["loss"] + summary.get("loss_reg", 0.0), trainer)


def flat(tensors: list[Any]) -> Tensor:
    return torch.cat([tensor.detach().flatten().cpu().double() for tensor in tensors])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))
