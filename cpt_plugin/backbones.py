"""Names of CLIP models as `--backbone` and MODEL.BACKBONE.NAME take them; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpt_plugin import openai_weights
from cpt_plugin._names import nearest
from cpt_plugin._paths import from_home
from cpt_plugin.errors import ConfigError, DataError

MICRO = "micro"
OPEN_CLIP = "open_clip:"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz")
"""Endings of weights files."""
_RESNETS = "RN"
FORMS = f"the path of a weights file, or {OPEN_CLIP}MODEL/WEIGHTS"


@dataclass(frozen=True)
class OpenClipName:
    """A model of the open_clip package and its weights: the tag of published ones, or a file."""

    model: str
    weights: str

    @property
    def file(self) -> Path | None:
        """The weights file; None where the weights are a tag."""
        path = from_home(self.weights)
        return path if path.suffix in SUFFIXES or path.is_file() else None


def named_models() -> list[str]:
    """The models that have a name of their own."""
    return [MICRO, *openai_weights.SHA256]


def open_clip_name(name: str) -> OpenClipName | None:
    """The parts of `open_clip:MODEL/WEIGHTS`; None for names of another form.

    What follows the first slash is the weights, so a file's absolute path stands behind two: `open_clip:M//x/y.pt`.

    Raises:
        ConfigError: a part is missing.
    """
    if not name.startswith(OPEN_CLIP):
        return None
    model, _, weights = name.removeprefix(OPEN_CLIP).partition("/")
    if not model or not weights:
        raise ConfigError(
            f"backbone '{name}' is not {OPEN_CLIP}MODEL/WEIGHTS, e.g. {OPEN_CLIP}ViT-B-16/laion2b_s34b_b88k "
            f"or {OPEN_CLIP}ViT-B-16/FILE"
        )
    return OpenClipName(model, weights)


def is_resnet(name: str) -> bool:
    """Whether a model's name alone says that its vision tower is a ResNet: OpenAI's or open_clip's `RN...`.

    Raises:
        ConfigError: a part of `open_clip:MODEL/WEIGHTS` is missing.
    """
    parts = open_clip_name(name)
    if parts is not None:
        return parts.model.startswith(_RESNETS)
    return name in openai_weights.SIZES and not openai_weights.SIZES[name][1]


def no_visual_prompts(name: str) -> str:
    """Why a method with visual prompts refuses a model whose vision tower is a ResNet, and what to do."""
    return (
        f"visual prompts need a ViT, but the vision tower of {name} is a ResNet: give another backbone, e.g. ViT-B/16, "
        "or a method with text prompts alone (coop, cocoop)"
    )


def check_name(name: str) -> None:
    """Refuse a name that means nothing, or a file that is not there.

    Raises:
        ConfigError: unknown, with the nearest known one.
        DataError: the file does not exist.
    """
    if name in named_models():
        return
    parts = open_clip_name(name)
    file = from_home(name) if parts is None else parts.file
    if file is None or file.is_file():
        return
    if file.suffix in SUFFIXES:
        raise DataError(f"weights file {file} does not exist")
    names = named_models()
    wrong = "no backbone is named: give --backbone NAME (or MODEL.BACKBONE.NAME)"
    if name:
        wrong = f"unknown backbone '{name}'; nearest: '{nearest(name, names)}'"
    raise ConfigError(f"{wrong}; possible: {', '.join(names)}, or {FORMS}")
