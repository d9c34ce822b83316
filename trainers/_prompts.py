"""Initial values of learnable prompts, and their hash."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from cpt_plugin.encoders import ClassTokens, FrozenCLIP

STD = 0.02


def context_words(text: str) -> list[str]:
    """Words of a ``CTX_INIT``, in which ``_`` is a space."""
    return text.replace("_", " ").split()


def random_vectors(*shape: int) -> Tensor:
    """Float32 vectors from N(0, 0.02^2), drawn from torch's global generator."""
    return STD * torch.randn(*shape)


def prompts_digest(prompt_learner: nn.Module) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of a prompt learner's state."""
    digest = hashlib.sha256()
    for name, value in sorted(prompt_learner.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def whole_words(n_ctx: int, ctx_init: str) -> tuple[int, str | None]:
    """Number of slots and the words that they start from, for learners with a slot for each word of ``ctx_init``."""
    words = context_words(ctx_init)
    return len(words) or n_ctx, " ".join(words) or None


def first_words(n_ctx: int, ctx_init: str) -> tuple[int, str | None]:
    """The same for learners whose slots are the first of ``ctx_init``'s words; the others stay as frozen words.

    There are no words where there are fewer than slots.
    """
    words = context_words(ctx_init)
    return n_ctx, " ".join(words) if 1 <= n_ctx <= len(words) else None


def worded_context(clip: FrozenCLIP, class_names: list[str], n_ctx: int, ctx_init: str) -> tuple[ClassTokens, Tensor]:
    """Class prompts with P = ``n_ctx`` slots, and what the slots start from, (P, w), as :func:`first_words` says.

    Without words that is random vectors.
    """
    _, prefix = first_words(n_ctx, ctx_init)
    tokens = ClassTokens.build(clip, class_names, n_ctx, prefix)
    return tokens, tokens.initial_context() if prefix else random_vectors(n_ctx, clip.text_width)
