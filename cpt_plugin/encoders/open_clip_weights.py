"""Models of the open_clip package (Ilharco et al., 2021) for the prompted encoders, and which of them cannot be.

The package gives the settings and finds or fetches the weights; they run in the same frozen modules as OpenAI's.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from cpt_plugin._names import nearest, some
from cpt_plugin._torchvision import prepare_torchvision
from cpt_plugin.backbones import OPEN_CLIP, OpenClipName
from cpt_plugin.data.reach import silent
from cpt_plugin.encoders._architecture import HEAD_WIDTH, Architecture, Traits
from cpt_plugin.encoders.sizes import ModelSizes
from cpt_plugin.encoders.weights_file import State
from cpt_plugin.errors import CheckpointError, ConfigError, DataError

LOG = logging.getLogger("cpt_plugin")
_TOWERS = {"vision_cfg": "CLIPVisionCfg", "text_cfg": "CLIPTextCfg"}
_SHAPES = {
    "vision_cfg": {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"},
    "text_cfg": {"width", "heads", "layers", "mlp_ratio"},
}
"""Settings of a tower that may differ from open_clip's defaults; all others must not."""
_SHARED = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "nonscalar_logit_scale"}
_REASONS = {
    "timm_model_name": "its vision tower is a model of timm",
    "hf_model_name": "its text tower is a model of transformers",
    "hf_tokenizer_name": "it has a tokenizer of its own",
    "vocab_size": "it has a vocabulary of its own",
    "context_length": "its texts are not 77 tokens long",
    "no_causal_mask": "its text tower is not causal",
    "embed_cls": "its text feature is read at a token of its own",
    "pool_type": "its features are not read at the end token or the class token",
    "init_logit_bias": "its logits have a bias (SigLIP)",
    "multimodal_cfg": "it has a caption decoder (CoCa)",
    "custom_text": "its text tower is not built like OpenAI's",
}


def sizes(parts: OpenClipName, name: str) -> ModelSizes:
    """Sizes of a model by open_clip's settings, without its weights.

    Raises:
        ConfigError: open_clip is missing or too old, does not know the model or tag, or the prompted encoders
            cannot represent it.
    """
    architecture, traits = _described(parts.model), _traits(parts)
    return ModelSizes(
        name=name,
        input_resolution=architecture.input_resolution,
        text_layers=architecture.text_layers,
        vision_layers=architecture.vision_blocks,
        pixel_mean=traits.pixel_mean,
        pixel_std=traits.pixel_std,
    )


def find(parts: OpenClipName, root: str | Path | None, download: bool) -> Path:
    """The file of a model's weights: the given one, else that in open_clip's cache, else fetched by open_clip.

    Args:
        parts: model and tag or file.
        root: folder of the cache; None for open_clip's own.
        download: whether the weights may be fetched.

    Raises:
        ConfigError: as :func:`sizes`.
        DataError: the weights are not there, or cannot be fetched.
    """
    _described(parts.model)
    if parts.file is not None:
        return parts.file
    published = _published(parts)
    cached = _cached(published, root)
    if cached is not None:
        return cached
    if not download:
        raise DataError(_instructions(parts, published, "are not there"))
    for host, why in silent([_address(published)]).items():  # huggingface_hub would try for more than a minute
        raise DataError(_instructions(parts, published, f"cannot be downloaded now ({host}: {why})"))
    LOG.info(f"Fetching {OPEN_CLIP}{parts.model}/{parts.weights} through open_clip")
    try:
        fetched = _package().pretrained.download_pretrained(published, cache_dir=None if root is None else str(root))
    except Exception as error:  # whatever the network, open_clip and its cache may raise
        reason = f"could not be downloaded ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        raise DataError(_instructions(parts, published, reason)) from error
    return Path(fetched)


def adapt(state: State, parts: OpenClipName) -> tuple[State, Traits]:
    """A state dict as OpenAI's, and the traits of its model.

    Raises:
        ConfigError: as :func:`sizes`.
        CheckpointError: the weights are those of another model.
    """
    wanted, traits = _described(parts.model), _traits(parts)
    adapted = dict(state)
    if "logit_scale" in adapted:
        adapted["logit_scale"] = adapted["logit_scale"].reshape(())
    found = Architecture.of(adapted, f"{OPEN_CLIP}{parts.model}/{parts.weights}", traits)
    theirs, ours = dataclasses.asdict(found), dataclasses.asdict(wanted)
    different = [f"{key} {theirs[key]}, not {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if different:
        raise CheckpointError(f"{parts.weights} holds no weights of open_clip's {parts.model}: {'; '.join(different)}")
    return adapted, traits


@cache
def _package() -> ModuleType:
    if importlib.util.find_spec("open_clip") is None:
        raise ConfigError(
            "models of open_clip need its package: "
            f"{sys.executable} -m pip install -c constraints.txt open-clip-torch"
        )
    prepare_torchvision()
    try:
        import open_clip
        import open_clip.model
        import open_clip.pretrained
    except Exception as error:
        raise ConfigError(
            f"the installed open_clip cannot be imported ({type(error).__name__}: {error}): "
            f"{sys.executable} -m pip install -c constraints.txt open-clip-torch"
        ) from error
    return open_clip


def _config(model: str) -> Mapping[str, Any]:
    package = _package()
    if model not in package.list_models():
        near = nearest(model, package.list_models())
        raise ConfigError(f"open_clip has no model '{model}'; nearest: '{near}' (open_clip.list_models() names all)")
    return package.get_model_config(model)


@cache
def _described(model: str) -> Architecture:
    """What open_clip's settings say about a model that the prompted encoders can represent."""
    config = _config(model)
    reasons = [*_obstacles(config)]
    if reasons:
        raise ConfigError(f"the prompted encoders cannot represent open_clip's {model}: {some(reasons)}")
    vision, text = (_settings(config, tower) for tower in ("vision_cfg", "text_cfg"))
    is_vit = isinstance(vision["layers"], int)
    return Architecture(
        embed_dim=config["embed_dim"],
        input_resolution=vision["image_size"],
        vision_layers=vision["layers"] if is_vit else tuple(vision["layers"]),
        vision_width=vision["width"],
        vision_heads=vision["width"] // vision["head_width"] if is_vit else 0,
        vision_hidden=int(vision["width"] * vision["mlp_ratio"]) if is_vit else 0,
        patch_size=vision["patch_size"] if is_vit else None,
        text_layers=text["layers"],
        text_width=text["width"],
        text_heads=text["heads"],
        text_hidden=int(text["width"] * text["mlp_ratio"]),
        activation="quick_gelu" if config.get("quick_gelu") else "gelu",
    )


def _settings(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """Settings of one tower with open_clip's defaults where it gives none."""
    described = getattr(_package().model, _TOWERS[tower])
    return {field.name: field.default for field in dataclasses.fields(described)} | config[tower]


def _obstacles(config: Mapping[str, Any]) -> Iterator[str]:
    """Reasons, with the setting in brackets, why a model cannot run in the prompted encoders."""
    for key, value in config.items():
        if key not in _SHARED and value:
            yield f"{_REASONS.get(key, 'it is built differently')} ({key})"
    for tower in _TOWERS:
        described = getattr(_package().model, _TOWERS[tower])
        defaults = {field.name: field.default for field in dataclasses.fields(described)}
        for key, value in config[tower].items():
            if key not in _SHAPES[tower] and value != defaults.get(key):
                yield f"{_REASONS.get(key, 'its ' + tower[:-4] + ' tower is built differently')} ({tower}.{key})"
    vision, text = _settings(config, "vision_cfg"), _settings(config, "text_cfg")
    if not isinstance(vision["image_size"], int):
        yield "its images are not square (vision_cfg.image_size)"
    if not isinstance(vision["layers"], int) and vision["head_width"] != HEAD_WIDTH:
        yield f"the heads of its ResNet are not {HEAD_WIDTH} wide (vision_cfg.head_width)"
    if text["width"] % text["heads"]:
        yield "its text heads do not divide its width (text_cfg.heads)"


def _published(parts: OpenClipName) -> Mapping[str, Any]:
    """What open_clip knows about the weights behind a tag."""
    pretrained = _package().pretrained
    published: Mapping[str, Any] = pretrained.get_pretrained_cfg(parts.model, parts.weights)
    tags = pretrained.list_pretrained_tags_by_model(parts.model)
    if not published:
        near = nearest(parts.weights, tags)
        raise ConfigError(
            f"open_clip has no weights '{parts.weights}' of {parts.model}; nearest: '{near}'; "
            f"possible: {', '.join(tags) or 'none'}, or a file"
        )
    if published.get("quick_gelu", False) != (_described(parts.model).activation == "quick_gelu"):
        other = f"{parts.model}-quickgelu" if published.get("quick_gelu") else parts.model.removesuffix("-quickgelu")
        raise ConfigError(
            f"the weights '{parts.weights}' of open_clip's {parts.model} were trained with another activation: give "
            f"{OPEN_CLIP}{other}/{parts.weights}"
        )
    return published


@cache
def _traits(parts: OpenClipName) -> Traits:
    model, constants = _described(parts.model), _package().constants
    mean, std = constants.OPENAI_DATASET_MEAN, constants.OPENAI_DATASET_STD
    if parts.file is None:
        published = _published(parts)
        mean, std = published.get("mean") or mean, published.get("std") or std
        if published.get("resize_mode", "shortest") != "shortest":
            LOG.warning(
                f"open_clip evaluates {parts.model}/{parts.weights} on images squashed to a square; here they are "
                "cropped, so accuracies may differ from published ones"
            )
    return Traits(
        activation=model.activation,
        text_head_width=model.text_width // model.text_heads,
        vision_head_width=model.vision_width // model.vision_heads if model.is_vit else HEAD_WIDTH,
        pixel_mean=tuple(mean),
        pixel_std=tuple(std),
    )


def _cached(published: Mapping[str, Any], root: str | Path | None) -> Path | None:
    """The file that open_clip has fetched before; nothing is asked of the network."""
    repository, file = os.path.split(published.get("hf_hub", ""))
    if repository:
        from huggingface_hub import try_to_load_from_cache

        constants = _package().constants
        for name in [file] if file else [constants.HF_SAFE_WEIGHTS_NAME, constants.HF_WEIGHTS_NAME]:
            found = try_to_load_from_cache(repository, name, cache_dir=root)
            if isinstance(found, str):
                return Path(found)
    return None


def _address(published: Mapping[str, Any]) -> str:
    hub = published.get("hf_hub", "").strip("/")
    if not hub:
        return str(published.get("url", ""))
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{hub}"


def _instructions(parts: OpenClipName, published: Mapping[str, Any], reason: str) -> str:
    return "\n".join(
        [
            f"the weights of {OPEN_CLIP}{parts.model}/{parts.weights} {reason}",
            f"  address:   {_address(published)}",
            f"  then give: --backbone {OPEN_CLIP}{parts.model}/FILE (FILE: open_clip_model.safetensors or the like)",
        ]
    )
