"""Loading the prompts of a checkpoint, and the refusals when they are not this trainer's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cpt_plugin._names import some
from cpt_plugin.config_identity import differences, hashed_part
from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.foreign import load_any_checkpoint
from trainers._released import check_frozen, check_suffix, is_released, take_apart

LOG = logging.getLogger("cpt_plugin")


def load_prompts(trainer: Any, path: Path, prompt_learner: Any = None) -> dict[str, Any]:
    """Copy the prompts of a checkpoint that fits into a prompt learner, by default the trainer's; returns all it holds.

    Checkpoints of the released CoOp, CoCoOp, MaPLe, IVLP and PromptSRC are understood as well.

    Raises:
        CheckpointError: damaged, without prompts, or with prompts of another shape, of other CLIP weights, of
            other settings, or (class-specific ones) of other classes; each named.
    """
    target = trainer.model.prompt_learner if prompt_learner is None else prompt_learner
    content = load_any_checkpoint(path)
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no prompts (state_dict): give a checkpoint of {type(trainer).__name__}.")
    if is_released(state):
        state = released_prompts(trainer, target, state, path)
    else:
        if target.class_specific:
            check_classes(trainer.dm.dataset.classnames, content.get("class_names"), path)
        check_meaning(trainer, content.get("extra") or {}, content.get("config") or {}, path)
    copy_state(trainer, target, state, path)
    return content


def released_prompts(trainer: Any, target: Any, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The prompts in a state dict of the released code, under our names, after a check of what is frozen in it."""
    parts = take_apart(state)
    check_frozen(trainer.clip, parts, path)
    if target.class_specific and "ctx" in parts.prompts:
        check_suffix(trainer.clip, trainer.dm.dataset.classnames, parts, path)
    LOG.info(f"{path} is of the released code and does not say how its prompts are meant; only shapes are checked")
    return parts.prompts


def check_classes(own: list[str], trained: list[str] | None, path: Path) -> None:
    """Refuse contexts of other classes; a checkpoint that Dassl alone wrote does not name its classes."""
    if trained not in (None, own):
        raise CheckpointError(
            f"{path} holds class-specific contexts of the classes {some(trained)}; they cannot be used for "
            f"{some(own)}. Evaluate the classes of the training run, or train shared contexts."
        )


def check_meaning(trainer: Any, extra: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Refuse prompts of other CLIP weights or settings; a checkpoint that Dassl alone wrote names neither."""
    digest, clip = extra.get("backbone_sha256"), trainer.clip
    if digest is None or not config:
        LOG.info(f"{path} does not name the CLIP weights and settings of its prompts; only shapes are checked")
    if digest not in (None, clip.digest):
        raise CheckpointError(
            f"{path}: its prompts were trained on other CLIP weights ({extra.get('backbone')}, SHA-256 {digest[:12]}) "
            f"than those here ({clip.name}, {clip.digest[:12]}): give that model (MODEL.BACKBONE.NAME)."
        )
    node = f"TRAINER.{trainer.config_node}."
    options = trainer.options
    own = hashed_part({node + key: options[key] for key in {*options} - trainer.neutral_options})
    saved = {key: config.get(key, value) for key, value in own.items()}
    if changed := differences(saved, own):
        raise CheckpointError(
            f"{path}: its prompts were trained with other settings (saved != here): {'; '.join(changed)}. "
            "Give those of the training run."
        )


def copy_state(trainer: Any, prompt_learner: Any, state: Mapping[str, Tensor], path: Path) -> None:
    """Strictly copy a state dict into a prompt learner, naming what does not fit."""
    own = prompt_learner.state_dict()
    if unmatched := sorted(own.keys() ^ state.keys()):
        raise CheckpointError(f"{path} does not fit {type(trainer).__name__}: missing or unexpected {unmatched}.")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{path}: {key} has shape {tuple(value.shape)}, this run needs {tuple(own[key].shape)}. "
                "Prompt length, depth and backbone must be those of the training run."
            )
    prompt_learner.load_state_dict(state)
