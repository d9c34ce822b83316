"""Our trainers on a case, without data loaders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.inputs import EPOCH_LENGTH, inputs, problem
from benchmarks.main_job import build as build_main_job
from tests.parity.ours import build as build_trainer
from trainers._prompted import PromptedCLIP


def build(case: Case, weights: str, side: str) -> tuple[Any, Any]:
    """One training step, or one evaluation of the test set, and the model; side "reference" runs all 77 positions.

    For the main job a whole training, and no model: it makes a new one every time.
    """
    if case.job == "main":
        return build_main_job(Path(weights).with_name("main"), side, case.quick), None
    trainer = build_trainer(problem(case), weights)
    images, labels = inputs(case)
    trainer.epoch, trainer.batch_idx, trainer.num_batches, trainer.max_epoch = 0, 0, EPOCH_LENGTH, 10
    models = [model for model in (trainer.model, getattr(trainer, "stage_one", None)) if model is not None]
    if side == "reference":
        for model in models:
            model.text_encoder.path = "reference"
    if case.job == "evaluation":
        return evaluation(trainer, images, case.batches, forget=side == "reference"), trainer.model
    if case.job == "cached" and side == "ours":
        with torch.no_grad():
            images = trainer.model.image_encoder(images)
    if case.job == "dpc":
        pool = torch.randn(3, *images.shape[2:])
        trainer.images_of = {label: [label] for label in range(case.classes)}
        trainer.training_image = lambda index: pool
    trainer.set_model_mode("train")
    return lambda: trainer.forward_backward({"img": images, "label": labels}), trainer.model


def evaluation(trainer: Any, images: torch.Tensor, batches: int, forget: bool) -> Callable[[], None]:
    """A whole test: class texts are not known from the test before, nor, if told to forget, from the batch before."""
    trainer.set_model_mode("eval")
    model: PromptedCLIP = trainer.model

    @torch.no_grad()
    def run() -> None:
        for batch in range(batches):
            if forget or batch == 0:
                model.text_encoder._last = None
            trainer.model_inference(images)

    return run
