"""What both sides are given alike; imports neither side's trainers."""

from __future__ import annotations

import torch

from benchmarks.cases import JOBS, Case, class_names
from tests.parity.problems import Problem

EPOCH_LENGTH = 1000


def problem(case: Case) -> Problem:
    """The case as the parity tests' adapters take it."""
    job = JOBS[case.job]
    return Problem(
        name=case.key, trainer=job.trainer, node=job.node, options=job.options, names=tuple(class_names(case.classes)),
        resolution=case.sizes["resolution"],
    )  # fmt: skip


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, H, W) and labels (n,) of one batch; both sides get the same."""
    generator, size = torch.Generator().manual_seed(1), case.sizes["resolution"]
    images = torch.randn(case.batch, 3, size, size, generator=generator)
    return images, torch.randint(case.classes, (case.batch,), generator=generator)
