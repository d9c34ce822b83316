"""Initial values of learnable prompts."""

from __future__ import annotations

import torch
from torch import Tensor

STD = 0.02


def context_words(text: str) -> list[str]:
    """Words of a ``CTX_INIT``, in which ``_`` is a space."""
    return text.replace("_", " ").split()


def random_vectors(*shape: int) -> Tensor:
    """Float32 vectors from N(0, 0.02^2), drawn from torch's global generator."""
    return STD * torch.randn(*shape)
