"""The frozen CLIP of somebody else's trainer: the weights it names, checked against those it runs on."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cpt_plugin.encoders import FrozenCLIP, freeze_clip, load_clip, plain_state
from cpt_plugin.errors import CPTError, HookError, one_line

_LOG = logging.getLogger("cpt_plugin")
_LOADER = "load_clip_to_cpu"
_HALF_PRECISION = 4e-3
_REMEDY = {
    "text": "give CPTHook(frozen_text=...), the (K, d) features of the class names from the CLIP text encoder without "
    "learned prompts, or add a method frozen_text_features() to the trainer",
    "image": "give CPTHook(prototypes=...), the (K, d) class means of unit image features of frozen CLIP, or add a "
    "method frozen_image_prototypes() to the trainer",
}


def foreign_clip(trainer: Any, encoders: Mapping[str, nn.Module]) -> FrozenCLIP:
    """CLIP without learned prompts, in float32 or wider, on the device of ``trainer.model``.

    Loaded by the function ``load_clip_to_cpu(cfg)`` that the code bases of the CoOp family have beside their
    trainers, else by the name ``cfg.MODEL.BACKBONE.NAME``. The trainer is not changed; the loader may draw from the
    global random number generators.

    Raises:
        HookError: neither way works, or the weights are not those of the text encoder among ``encoders`` (by kind).
    """
    clip = _load(trainer, encoders.get("text"))
    check_same_weights(clip, trainer, encoders, "text")
    return clip


def _load(trainer: Any, encoder: nn.Module | None) -> FrozenCLIP:
    name = _backbone(trainer)
    like = next(trainer.model.parameters()) if encoder is None else next(encoder.parameters(), None)
    like = next(trainer.model.parameters()) if like is None else like
    dtype = torch.promote_types(torch.float32, like.dtype)
    failures = []
    loader = _own_loader(type(trainer))
    if loader is None:
        failures.append(f"no function {_LOADER}(cfg) stands beside {type(trainer).__name__}")
    else:
        try:
            state = plain_state(loader(trainer.cfg).state_dict(), name)
            clip = freeze_clip(state, name, digest="", dtype=dtype, device=like.device)
        except Exception as error:  # foreign code may fail in any way
            failures.append(f"{loader.__module__}.{_LOADER}(cfg): {one_line(error)}")
        else:
            _LOG.info("frozen features come from CLIP %s as %s.%s(cfg) loads it", name, loader.__module__, _LOADER)
            return clip
    try:
        clip = load_clip(name, device=like.device)
    except CPTError as error:
        failures.append(f"cfg.MODEL.BACKBONE.NAME {name!r}: {one_line(error)}")
        raise HookError(
            f"{type(trainer).__name__} has no method frozen_text_features(), and the CLIP that it names cannot be "
            f"loaded ({'; '.join(failures)}): {_REMEDY['text']}."
        ) from error
    _LOG.info("frozen features come from CLIP %s (%s)", name, "; ".join(failures))
    return clip


def _backbone(trainer: Any) -> str:
    model = getattr(getattr(trainer, "cfg", None), "MODEL", None)
    return str(getattr(getattr(model, "BACKBONE", None), "NAME", ""))


def _own_loader(cls: type) -> Any:
    """The loader in the module of the trainer's class or of the nearest base class that has one."""
    for base in cls.__mro__:
        loader = getattr(sys.modules.get(base.__module__), _LOADER, None)
        if callable(loader):
            return loader
    return None


def check_same_weights(clip: FrozenCLIP, trainer: Any, encoders: Mapping[str, nn.Module], kind: str) -> None:
    """Compare the weights of an encoder of the trainer, as far as their names agree, to those of ``clip``.

    kind: "text" or "image". Rounding to half precision is allowed for; what only the trainer has (learned prompts)
    and what only CLIP has is passed over.

    Raises:
        HookError: a weight differs in shape or value, or no matrix could be compared.
    """
    known = _weights_of(clip, kind)
    compared = False
    encoder = encoders.get(kind)
    for name, value in encoder.state_dict().items() if encoder is not None else ():
        key = _same_name(name, known, kind)
        if key is None or not value.is_floating_point():
            continue
        if not _close(value, known[key]):
            raise HookError(
                f"{type(trainer).__name__} names CLIP {clip.name}, but its {kind} encoder runs on other weights "
                f"({name} differs), so frozen features of that model would be wrong: {_REMEDY[kind]}."
            )
        compared |= value.ndim > 1
    if not compared:
        raise HookError(
            f"Whether the {kind} encoder ({type(encoder).__name__}) of {type(trainer).__name__} runs on CLIP "
            f"{clip.name}, the model that it names, cannot be checked (no weights under CLIP's names): {_REMEDY[kind]}."
        )


def _weights_of(clip: FrozenCLIP, kind: str) -> dict[str, Tensor]:
    state = clip.model.state_dict()
    if kind == "text":
        return {key: value for key, value in state.items() if not key.startswith("visual.")}
    return {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}


def _same_name(name: str, known: Mapping[str, Tensor], kind: str) -> str | None:
    """The longest of CLIP's names that ``name`` is or ends with (an encoder may hold CLIP's modules deeper down)."""
    if kind == "text" and "visual." in name:
        return None
    parts = name.split(".")
    return next((key for i in range(len(parts)) if (key := ".".join(parts[i:])) in known), None)


def _close(theirs: Tensor, ours: Tensor) -> bool:
    if theirs.shape != ours.shape:
        return False
    a, b = theirs.detach().double(), ours.double()
    return torch.allclose(a, b, rtol=_HALF_PRECISION, atol=float(b.abs().max()) * 1e-5)
