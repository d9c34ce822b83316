"""Problems that our code and the released code are given alike: weights, class names, prompts, batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.helpers.tiny_clip import random_state

RESOLUTION = 32
STEPS, EPOCH_LENGTH, BATCH = 20, 5, 4
OPTIM: dict[str, Any] = {
    "NAME": "sgd",
    "LR": 0.02,
    "MAX_EPOCH": STEPS // EPOCH_LENGTH,
    "LR_SCHEDULER": "cosine",
    "WARMUP_EPOCH": 1,
    "WARMUP_TYPE": "constant",
    "WARMUP_CONS_LR": 1e-5,
}
NAMES = ("red_square", "yak-40", "u.s. flag", "tall blue tower", "1957 chevrolet", "inc.", "sushi")


@dataclass(frozen=True)
class Problem:
    """One comparison; ``sizes`` are those of the weights, ``options`` the trainer's configuration node."""

    name: str
    trainer: str
    node: str
    options: dict[str, Any]
    dtype: str = "float32"
    sizes: dict[str, int] = field(default_factory=dict)
    dataset: str = "EuroSAT"
    names: tuple[str, ...] = NAMES
    resolution: int = RESOLUTION

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


def weights(sizes: dict[str, int]) -> dict[str, Tensor]:
    """Random CLIP whose logits spread like those of a trained one (scale about 30)."""
    state = random_state(**{"resolution": RESOLUTION, "patch": 8, "seed": 3, **sizes})
    state["logit_scale"].fill_(3.4)
    return state


def prompts_like(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Starting values of all prompt tensors, the same for both sides."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: (0.05 * torch.randn(shapes[name], generator=generator, dtype=torch.float32)).to(dtype)
        for name in sorted(shapes)
    }


def our_name(name: str) -> str:
    """Our name of a prompt tensor of a released model: IVLP and PromptSRC keep theirs among the encoders' weights."""
    if name == "image_encoder.VPT":
        return "visual_ctx"
    side, _, rest = name.partition("_encoder.transformer.resblocks.")
    if rest.endswith(".VPT_shallow"):
        return f"deep_{'visual' if side == 'image' else side}.{int(rest.partition('.')[0]) - 1}"
    return name.removeprefix("prompt_learner.")


def batches(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images (steps, batch, 3, side, side) and labels (steps, batch)."""
    generator = torch.Generator().manual_seed(12)
    images = torch.randn(STEPS, BATCH, 3, RESOLUTION, RESOLUTION, generator=generator, dtype=torch.float32)
    labels = torch.randint(len(NAMES), (STEPS, BATCH), generator=generator)
    return images.to(dtype), labels


def prototypes(width: int, dtype: torch.dtype) -> Tensor:
    """One prototype a class, (K, d): means of three random unit vectors."""
    generator = torch.Generator().manual_seed(13)
    features = torch.randn(len(NAMES), 3, width, generator=generator, dtype=torch.float64)
    return (features / features.norm(dim=-1, keepdim=True)).mean(1).to(dtype)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """max |a - b| / max |b|."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
