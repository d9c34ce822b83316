"""One problem for DPC's two implementations: weights, stage-one prompts and logits, batches, an image a class.

Negatives are drawn at random in two places: an image of a chosen class, and classes where too few are left. Here every
class has one image, and the logits leave at least two classes to every image; so nothing is random.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.helpers.tiny_clip import random_state

RESOLUTION = 224
"""The released batch builder takes images of this size only."""
SIZES = {"text_width": 64, "vision_width": 64, "text_layers": 2, "vision_layers": 2, "embed_dim": 32}
WORDS = ("red", "old", "tall", "small", "round", "wooden")
NAMES = tuple(f"{word}_{noun}" for noun in ("tower", "boat", "cat", "lamp") for word in WORDS)
STEPS, EPOCH_LENGTH, BATCH, TOP_K, N_CTX = 20, 5, 3, 4, 4
WEIGHT = 0.2
OPTIM: dict[str, Any] = {
    "NAME": "sgd",
    "LR": 0.01,
    "MAX_EPOCH": STEPS // EPOCH_LENGTH,
    "LR_SCHEDULER": "cosine",
    "WARMUP_EPOCH": 1,
    "WARMUP_TYPE": "constant",
    "WARMUP_CONS_LR": 1e-4,
}
VARIANTS = {
    "as released": {"rate": WEIGHT, "decay": 5e-4, "own_decay": WEIGHT * 5e-4},
    "P kept": {"rate": WEIGHT**2, "decay": 0.0, "own_decay": 0.0},
}
"""Two ways to run the released code, and the settings that move its P' as OPTIM (and ``own_decay``) moves ours.

Its optimizer's variable M is to be WEIGHT P' + (1 - WEIGHT) P, out of which the forward pass takes P'. But M is made
from P without a copy, so that a step in place changes P with it, M = P = P' throughout, and only the gradient
carries a factor 1 / WEIGHT. "P kept" gives it a copy of P from outside, as its formula wants; the factor is then
1 / WEIGHT^2, and its weight decay, which acts on M, has no counterpart here.
"""


class Data(NamedTuple):
    """Prompts of stage one, an image of every class, and for each step images, labels and stage-one logits."""

    context: Tensor
    pool: Tensor
    images: Tensor
    labels: Tensor
    logits: Tensor


def weights() -> dict[str, Tensor]:
    """Random CLIP whose logits spread like those of a trained one."""
    state = random_state(**SIZES, resolution=RESOLUTION, patch=56, seed=3)
    state["logit_scale"].fill_(3.4)
    return state


def data(dtype: torch.dtype) -> Data:
    """The same numbers in either type."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32).to(dtype)

    labels, logits = [], []
    while len(labels) < STEPS:
        label = torch.randperm(len(NAMES), generator=generator)[:BATCH]
        if len(labels) % 3 == 0:
            label[1] = label[0]
        values = torch.stack([torch.randperm(len(NAMES), generator=generator) for _ in range(BATCH)]).to(dtype)
        for i, row in enumerate(values):
            ranked = row.argsort(descending=True)[int(torch.randint(TOP_K, (), generator=generator))]
            row[label[i]], row[ranked] = row[ranked].clone(), row[label[i]].clone()
        if leaves_two(values, label.tolist()):
            labels.append(label)
            logits.append(values)
    shape = (3, RESOLUTION, RESOLUTION)
    images = normal(STEPS, BATCH, *shape)
    return Data(0.05 * normal(N_CTX, SIZES["text_width"]), normal(len(NAMES), *shape), images,
                torch.stack(labels), torch.stack(logits))  # fmt: skip


def leaves_two(logits: Tensor, labels: list[int]) -> bool:
    """Whether every image ranks at least two classes that no earlier image ranks and that are no label."""
    seen = set(labels)
    for row in logits:
        ranked = set(row.topk(TOP_K).indices.tolist())
        if len(ranked - seen) < 2:
            return False
        seen |= ranked
    return True


def absent_label() -> tuple[Tensor, list[int]]:
    """Logits (1, K) and label of an image whose own class is not among its highest."""
    logits = torch.arange(len(NAMES), dtype=torch.float32).flip(0)
    return logits[None], [len(NAMES) - 1]
