"""Tiny random CLIP weights for a case."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.helpers.tiny_clip import random_state
from tests.parity.foreign_cases import Case


def write_weights(path: Path, case: Case, **sizes: int) -> None:
    """Weights of the case's sizes, two blocks in either tower unless they say otherwise."""
    blocks = {"text_layers": 2, "vision_layers": 2, "resolution": case.resolution, "patch": case.patch}
    torch.save(random_state(**{**blocks, **case.sizes, **sizes}, seed=4), path)
