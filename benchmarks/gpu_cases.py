"""What the GPU benchmark runs: trainers with CPT on one random CLIP, by the fast text path or all 77 positions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import FULL, JOBS, class_names
from benchmarks.inputs import EPOCH_LENGTH
from benchmarks.our_side import evaluation
from cpt_plugin import CPTHook
from cpt_plugin.encoders import FrozenCLIP, freeze_clip, resolve_precision
from tests.helpers.tiny_clip import random_state
from tests.parity.ours import without_data

BATCH = 32
LEARNERS = ("coop", "maple")
PRECISIONS = ("fp32", "amp", "amp_bf16", "fp16")
"""float32; its weights under autocast to float16 (with a loss scale) and to bfloat16; float16 weights."""
PATHS = {"fast": "auto", "all 77": "reference"}
NO_CHUNKS_GIB = 1e6
"""Budget of the text tower that no case reaches: neither side computes anything twice to save memory."""
TEST_BATCH, TEST_BATCHES = 100, 10
TINY = {**FULL, "text_width": 64, "text_layers": 9, "vision_width": 64, "vision_layers": 9, "patch": 112}


class Bench:
    """Trainers on a device, over weights that are drawn once."""

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device = device
        self.batch, self.test_batch = (2, 2) if quick else (BATCH, TEST_BATCH)
        self.test_batches = 2 if quick else TEST_BATCHES
        self.sizes = TINY if quick else FULL
        self._known: tuple[torch.dtype, FrozenCLIP] | None = None

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Random weights, on the host."""
        return random_state(**self.sizes)

    def clip(self, dtype: torch.dtype) -> FrozenCLIP:
        """The model in that type, of which one is kept at a time."""
        if self._known is None or self._known[0] != dtype:
            self._known = None
            self._known = dtype, freeze_clip(self.state, "random", "random", dtype, self.device)
        return self._known[1]

    def trainer(self, learner: str, classes: int, precision: str) -> Any:
        """A trainer of K classes without data loaders."""
        job = JOBS[learner]
        node = {**job.options, "PREC": precision}
        size = self.sizes["resolution"]
        values = {"INPUT.SIZE": (size, size), "DATASET.NAME": "ImageNet", "MODEL.TEXT_MEMORY_GIB": NO_CHUNKS_GIB}
        values |= {f"TRAINER.{job.node}.{key}": value for key, value in node.items()}
        trainer = without_data(job.trainer, class_names(classes), values, self.device)
        trainer.precision = resolve_precision(precision, self.device)
        trainer.load_frozen_clip = lambda _: self.clip(trainer.precision.dtype)
        trainer.build_model()
        trainer.epoch, trainer.batch_idx, trainer.num_batches, trainer.max_epoch = 0, 0, EPOCH_LENGTH, 10
        return trainer

    def training_steps(self, learner: str, classes: int, precision: str) -> dict[str, Callable[[], Any]]:
        """One training step with CPT by each text path, of one and the same trainer."""
        trainer = self.trainer(learner, classes, precision)
        CPTHook().attach(trainer)
        trainer.set_model_mode("train")
        labels = (torch.arange(self.batch) % classes).to(self.device)
        batch = {"img": self.images(self.batch), "label": labels}

        def step(path: str) -> None:
            trainer.model.text_encoder.path = path
            trainer.forward_backward(batch)

        return {side: partial(step, path) for side, path in PATHS.items()}

    def evaluations(self, classes: int, precision: str) -> dict[str, Callable[[], Any]]:
        """CoOp's test of 10 batches by each path: "fast" encodes the texts once, "all 77" with every batch."""
        trainer = self.trainer("coop", classes, precision)
        images = self.images(self.test_batch)

        def test(path: str, run: Callable[[], None]) -> None:
            trainer.model.text_encoder.path = path
            run()

        return {
            side: partial(test, path, evaluation(trainer, images, self.test_batches, forget=side != "fast"))
            for side, path in PATHS.items()
        }

    @property
    def images_of_a_test(self) -> int:
        """Images of one run of :meth:`evaluations`."""
        return self.test_batches * self.test_batch

    def images(self, number: int) -> Tensor:
        size = self.sizes["resolution"]
        return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1)).to(self.device)
