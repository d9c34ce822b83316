"""Prompts in the checkpoints of the released CoOp, CoCoOp, MaPLe, IVLP and PromptSRC code.

CoOp and CoCoOp save their prompt learner, the others the whole model under the names of their modules: prompts,
frozen CLIP (PromptSRC a second time), and the embeddings of their class prompts. The prompts are taken over in
float32; the rest tells whether they belong to the CLIP weights here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpt_plugin.encoders import ClassTokens, FrozenCLIP, tokenize
from cpt_plugin.errors import CheckpointError

TOLERANCE = 0.01
"""Largest |a - b| / |b| (Frobenius) of a frozen tensor in a file against ours.

PromptSRC's released code averages the frozen weights as well, in float16 on a GPU, which moves them by about 0.001.
"""
_BUFFERS = ("token_prefix", "token_suffix")
_FROZEN = (("prompt_learner.ZS_image_encoder.", "visual."), ("image_encoder.", "visual."), ("text_encoder.", ""))
_DEEP = re.compile(r"(text|image)_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow")


class ReleasedState(NamedTuple):
    """A released state dict, taken apart: our names of prompts, CLIP's names of frozen tensors, and buffers."""

    prompts: dict[str, Tensor]
    frozen: dict[str, list[Tensor]]
    buffers: dict[str, Tensor]


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has the layout of the released code, whose prompt learners register two buffers."""
    return {key.removeprefix("prompt_learner.") for key in state} >= {*_BUFFERS}


def take_apart(state: Mapping[str, Tensor]) -> ReleasedState:
    """Divide a released state dict and translate its names.

    ``prompt_learner.X`` is our X; ``image_encoder.VPT`` is ``visual_ctx``; ``VPT_shallow`` of block i (from 0) of the
    text or image encoder is ``deep_text`` or ``deep_visual`` i - 1; other ``text_encoder.X`` is CLIP's X, and
    ``image_encoder.X`` and ``prompt_learner.ZS_image_encoder.X`` are CLIP's ``visual.X``.
    """
    parts = ReleasedState({}, {}, {})
    for key, value in state.items():
        learner_key = key.removeprefix("prompt_learner.")
        if learner_key in _BUFFERS:
            parts.buffers[learner_key] = value
        elif (name := _frozen_name(key)) is not None:
            parts.frozen.setdefault(name, []).append(value)
        else:
            parts.prompts[prompt_name(key)] = value.float() if value.is_floating_point() else value
    return parts


def prompt_name(key: str) -> str:
    """Our name of a released prompt tensor."""
    if key == "image_encoder.VPT":
        return "visual_ctx"
    if deep := _DEEP.fullmatch(key):
        side = {"text": "text", "image": "visual"}[deep[1]]
        return f"deep_{side}.{int(deep[2]) - 1}"
    return key.removeprefix("prompt_learner.")


def _frozen_name(key: str) -> str | None:
    if key == "logit_scale":
        return key
    if "VPT" in key:
        return None
    return next((own + key.removeprefix(theirs) for theirs, own in _FROZEN if key.startswith(theirs)), None)


def check_frozen(clip: FrozenCLIP, parts: ReleasedState, path: Path) -> None:
    """Compare all frozen tensors of a released file, and its embedding of the start token, with our CLIP weights.

    Raises:
        CheckpointError: names the first that CLIP does not have, or that differs by more than :data:`TOLERANCE`.
    """
    own = clip.model.state_dict()
    start = clip.model.token_embedding.weight[tokenize("", clip)[0, 0]]
    for name, theirs, ours in _pairs(parts, own, start):
        if difference := _difference(theirs, ours):
            raise CheckpointError(
                f"{path}: its prompts were trained on other CLIP weights than those here ({clip.name}): {name} "
                f"{difference}. Give that model (MODEL.BACKBONE.NAME)."
            )


def _difference(theirs: Tensor, ours: Tensor | None) -> str:
    if ours is None:
        return "is no part of it"
    if ours.shape != theirs.shape:
        return f"has shape {tuple(theirs.shape)}, not {tuple(ours.shape)}"
    error = _relative_error(theirs, ours)
    return f"differs by {error:.1%}" if error > TOLERANCE else ""


def _pairs(
    parts: ReleasedState, own: Mapping[str, Tensor], start: Tensor
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    for name, copies in parts.frozen.items():
        for value in copies:
            yield name, value, own.get(name)
    for row in parts.buffers["token_prefix"].flatten(end_dim=-2):
        yield "the embedding of the start token", row, start


def _relative_error(theirs: Tensor, ours: Tensor) -> float:
    a, b = theirs.double(), ours.detach().double().cpu()
    error = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b).clamp(min=torch.finfo(b.dtype).tiny)
    return error.nan_to_num(torch.inf).item()


def check_suffix(clip: FrozenCLIP, class_names: list[str], parts: ReleasedState, path: Path) -> None:
    """Compare the embeddings behind the context in a released file with those of these classes.

    Raises:
        CheckpointError: they are those of other classes.
    """
    theirs, n_ctx = parts.buffers["token_suffix"], parts.prompts["ctx"].shape[-2]
    ours = ClassTokens.build(clip, class_names, n_ctx).embeddings[:, 1 + n_ctx :]
    if theirs.shape != ours.shape or _relative_error(theirs, ours) > TOLERANCE:
        raise CheckpointError(
            f"{path} holds class-specific contexts of other classes than the {len(class_names)} here: evaluate the "
            "classes of the training run, in their order, or train shared contexts."
        )
