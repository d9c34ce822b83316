"""Initial values of learnable prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from cpt_plugin.encoders import FrozenCLIP, tokenize

STD = 0.02


def word_embeddings(clip: FrozenCLIP, words: str) -> Tensor:
    """(P, w) float32 token embeddings of the words, ``_`` read as a space, as CoOp's ``CTX_INIT``."""
    text = words.replace("_", " ").strip()
    ids = tokenize([text], clip)[0]
    end = int(ids.argmax())
    weight = clip.model.token_embedding.weight
    return weight[ids[1:end].to(weight.device)].detach().float().clone()


def random_vectors(*shape: int) -> Tensor:
    """Float32 vectors from N(0, 0.02^2), drawn from torch's global generator."""
    return STD * torch.randn(*shape)
