"""The released trainers on a case, unmodified, in half precision switched off from outside."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.cases import JOBS, Case, class_names
from benchmarks.inputs import EPOCH_LENGTH, inputs, problem
from tests.parity import dpc_worker
from tests.parity.released_worker import build as build_released
from tests.parity.released_worker import prepare

TOP_K = 8
IMAGES_OF_A_CLASS = 16


def build(case: Case, weights: str, side: str) -> tuple[Any, Any]:
    """One training step, or one evaluation of the test set, and the model."""
    job = JOBS[case.job]
    prepare(os.environ[job.variable])
    images, labels = inputs(case)
    if case.job == "dpc":
        return _second_stage(case, weights, images, labels)
    import_module(f"trainers.{job.trainer.lower()}")
    trainer = build_released(problem(case), weights)
    if case.job == "evaluation":
        trainer.set_model_mode("eval")

        @torch.no_grad()
        def run() -> None:
            for _ in range(case.batches):
                trainer.model_inference(images)

        return run, trainer.model
    trainer.num_batches, trainer.batch_idx = EPOCH_LENGTH, 0
    trainer.set_model_mode("train")
    return lambda: trainer.forward_backward({"img": images, "label": labels}), trainer.model


class StageOne:
    """The released CoOp with prompts of its own, read as the second stage reads it: unit features of texts and images.

    Its ``CoOpStats`` would need a data set and a checkpoint; the modules that run are the same.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    def model_inference(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = self.model.text_encoder(self.model.prompt_learner(), self.model.tokenized_prompts)
        image = self.model.image_encoder(images)
        return tuple(features / features.norm(dim=-1, keepdim=True) for features in (text, image))


def _second_stage(case: Case, weights: str, images: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    module, names = dpc_worker.stand_in(os.environ["CPT_RELEASED_DPC"]), class_names(case.classes)
    pool = torch.randn(3, *images.shape[2:])
    given = SimpleNamespace(context=torch.randn(4, case.sizes["text_width"]) * 0.02, pool=pool[None])
    with tempfile.TemporaryDirectory() as folder:
        trainer = dpc_worker.build(
            module, Path(folder), weights, given, "as released", names=names, top_k=TOP_K,
            images_of_a_class=IMAGES_OF_A_CLASS,
        )  # fmt: skip
    module.read_image = lambda path: pool
    trainer.inference_trainer = StageOne(module.CustomCLIP(trainer.cfg, names, module.load_clip_to_cpu(trainer.cfg)))
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx = EPOCH_LENGTH, 0
    batch = {"img": images, "label": labels, "impath": ["/data/x/0.png"] * len(labels)}
    return lambda: trainer.forward_backward(batch), trainer.model
