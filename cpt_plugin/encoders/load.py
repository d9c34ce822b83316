"""The one place where CLIP weights come from: the embedded micro model, OpenAI's, open_clip's, or a given file."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import torch

from cpt_plugin import openai_weights
from cpt_plugin._paths import from_home
from cpt_plugin.backbones import MICRO, check_name, named_models, open_clip_name
from cpt_plugin.data.plan import by_reason
from cpt_plugin.data.reach import silent
from cpt_plugin.encoders import open_clip_weights
from cpt_plugin.encoders._architecture import OPENAI, Architecture
from cpt_plugin.encoders.frozen import FrozenCLIP, freeze_clip
from cpt_plugin.encoders.precision import resolve_precision
from cpt_plugin.encoders.sizes import ModelSizes
from cpt_plugin.encoders.weights_file import check_trusted, digest_of, is_torchscript, read_shapes, read_state
from cpt_plugin.errors import CheckpointError, ConfigError, DataError

LOG = logging.getLogger("cpt_plugin")
ASSETS = Path(__file__).resolve().parents[1] / "assets"
UNKNOWN_WORDS = ("refuse", "zero")


def available_models() -> list[str]:
    """Names that :func:`load_clip` knows, besides paths of weight files and open_clip's models."""
    return named_models()


def load_clip(
    name: str,
    root: str | Path | None = None,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    download: bool = False,
    trust: bool = False,
    unknown_words: str = "refuse",
) -> FrozenCLIP:
    """Load frozen CLIP weights.

    Args:
        name: "micro", an OpenAI name such as "ViT-B/16", `open_clip:MODEL/WEIGHTS` (WEIGHTS: a tag that open_clip
            knows, or a file), or the path of a weights file with OpenAI's activation and heads: a plain PyTorch state
            dict, a .safetensors file, a TorchScript archive, or an .npz beside its .json (assets/README.md).
        root: OpenAI's file, or a folder searched for it before ~/.cache/clip; open_clip's cache.
        precision: "fp32", "fp16", "amp" or "amp_bf16"; anything runs in fp32 on a CPU.
        device: where the model goes.
        download: fetch published weights that are not on this machine.
        trust: read a TorchScript archive that is none of OpenAI's; it can run code.
        unknown_words: "refuse" words for which the model (micro) has no trained embedding, or "zero" to give them a
            zero embedding, with which accuracies mean nothing.

    Raises:
        ConfigError: unknown name, precision or treatment of words, or a model that the encoders cannot represent.
        DataError: the weights file is missing, or its download failed; the message says which one goes where.
        CheckpointError: the file is damaged, not what it should be, or unsafe to read.
    """
    if unknown_words not in UNKNOWN_WORDS:
        raise ConfigError(f"unknown words can be {' or '.join(UNKNOWN_WORDS)}, not {unknown_words!r}")
    dtype = resolve_precision(precision, device).dtype
    path = _find(name, root, download)
    digest = digest_of(path)
    if digest != openai_weights.SHA256.get(name, digest):
        raise CheckpointError(
            f"{path} is not OpenAI's {name}: SHA-256 is {digest}, expected {openai_weights.SHA256[name]}; "
            f"delete it and fetch {openai_weights.address(name)}"
        )
    state, vocabulary = read_state(path, digest, trust)
    parts, traits = open_clip_name(name), OPENAI
    if parts is not None:
        state, traits = open_clip_weights.adapt(state, parts)
    elif name not in named_models() and path.suffix != ".npz" and digest not in openai_weights.SHA256.values():
        LOG.info(f"{path} is read as a model like OpenAI's (QuickGELU, heads of 64); others: open_clip:MODEL/FILE")
    return freeze_clip(
        state, name=name, digest=traits.mark(digest), dtype=dtype, device=device, vocabulary=vocabulary, traits=traits,
        unknown_words=unknown_words,
    )  # fmt: skip


def sizes_of(name: str, root: str | Path | None = None, trust: bool = False) -> ModelSizes:
    """Sizes of a model, without loading or fetching published weights.

    Args:
        name, root, trust: as of :func:`load_clip`.

    Raises:
        ConfigError, DataError, CheckpointError: as :func:`load_clip`, as far as can be told from names and shapes.
    """
    check_name(name)
    if name in openai_weights.SHA256:
        return _openai_sizes(name, name)
    parts = open_clip_name(name)
    if parts is not None:
        return open_clip_weights.sizes(parts, name)
    path = _find(name, root, download=False)
    return _file_sizes(path, name, path.stat().st_mtime_ns, path.stat().st_size, trust)


@lru_cache(maxsize=64)
def _file_sizes(path: Path, name: str, changed: int, size: int, trust: bool) -> ModelSizes:
    """Sizes of the model in a file; its age and length are there so that another file of its name is read again."""
    if is_torchscript(path):
        digest = digest_of(path)
        check_trusted(path, digest, trust)
        for known, sha256 in openai_weights.SHA256.items():
            if digest == sha256:
                return _openai_sizes(known, name)
        state = read_state(path, digest, trust)[0]
    else:
        state = read_shapes(path)
    architecture = Architecture.of(state, name)
    return ModelSizes(
        name=name,
        input_resolution=architecture.input_resolution,
        text_layers=architecture.text_layers,
        vision_layers=architecture.vision_blocks,
    )


def _openai_sizes(model: str, name: str) -> ModelSizes:
    resolution, vision_layers = openai_weights.SIZES[model]
    return ModelSizes(
        name=name,
        input_resolution=resolution,
        text_layers=openai_weights.TEXT_LAYERS,
        vision_layers=vision_layers,
    )


def _find(name: str, root: str | Path | None, download: bool) -> Path:
    check_name(name)
    if name == MICRO:
        path = ASSETS / "micro_clip.npz"
        if not path.is_file():
            raise DataError(f"{path} is missing; reinstall cpt_plugin or run scripts/pretrain_micro_clip.py")
        return path
    if name in openai_weights.SHA256:
        return openai_weights.find(name, root) or _fetch_openai(name, root, download)
    parts = open_clip_name(name)
    if parts is not None:
        return open_clip_weights.find(parts, root, download)
    return from_home(name)


def _fetch_openai(name: str, root: str | Path | None, download: bool) -> Path:
    if not download:
        raise DataError(openai_weights.instructions(name, "are not there", root))
    from cpt_plugin.data.download import download as fetch

    unanswered = silent([openai_weights.SOURCE])
    if unanswered:
        raise DataError(openai_weights.instructions(name, f"could not be downloaded ({by_reason(unanswered)})", root))
    LOG.info(f"Fetching CLIP {name} into {openai_weights.cache_file(name)}")
    try:
        return fetch(openai_weights.address(name), openai_weights.cache_file(name), openai_weights.SHA256[name])
    except DataError as error:
        reason = f"could not be downloaded ({str(error).splitlines()[0]})"
        raise DataError(openai_weights.instructions(name, reason, root)) from error
