"""Reading weights files of any kind without running what is in them, and their shapes without their values."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpt_plugin import openai_weights
from cpt_plugin._hashing import sha256_of
from cpt_plugin.errors import CheckpointError, ConfigError, DataError

_TOKEN_PARTS = ("token_embedding.rows", "token_embedding.ids", "token_embedding.vocab_size")
_PREFIX = "module."
"""What a model wrapped for several devices puts before its names."""
_OF_PROMPTS = ("ctx", "prompt")
"""In names of learned prompts, ours and the released code's, and in none of CLIP's."""
_SHOWN = 300
State = Mapping[str, Tensor]


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a weights file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"weights file {path} cannot be read: {error.strerror or error}") from error


def read_state(path: Path, digest: str, trust: bool = False) -> tuple[State, frozenset[int] | None]:
    """The state dict in a file, and the token ids with trained embeddings if the file tells.

    Args:
        path: an .npz beside its .json (assets/README.md), a .safetensors file, what torch.save made of a state dict
            (alone or under "state_dict"), or a TorchScript archive.
        digest: SHA-256 of the file.
        trust: read a TorchScript archive that is not known as OpenAI's by its SHA-256.

    Raises:
        CheckpointError: the file is damaged, not what it should be, or unsafe to read.
    """
    if path.suffix == ".npz":
        return _read_npz(path, digest)
    if path.suffix == ".safetensors":
        return _plain_names(_read_safetensors(path)), None
    if is_torchscript(path):
        return _plain_names(_read_archive(path, digest, trust)), None
    return _plain_names(_read_pickle(path, "cpu")), None


def read_shapes(path: Path) -> State:
    """The state dict in a file that is no TorchScript archive, without its values where they need not be read.

    Raises:
        CheckpointError: as :func:`read_state`.
    """
    if path.suffix == ".npz":
        return _read_npz(path, digest_of(path))[0]
    if path.suffix == ".safetensors":
        return _plain_names(_read_safetensors(path, shapes_only=True))
    return _plain_names(_read_pickle(path, "meta"))


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with code in it, as OpenAI's are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist())
    except Exception:  # a damaged table of contents can fail in any way
        return False


def check_trusted(path: Path, digest: str, trust: bool) -> None:
    """Refuse a TorchScript archive that nobody vouches for.

    Raises:
        CheckpointError: saying what can be done.
    """
    if not trust and digest not in openai_weights.SHA256.values():
        raise CheckpointError(
            f"{path} is a TorchScript archive, which can hold code, and none of OpenAI's (SHA-256 {digest}). If you "
            "trust whoever made it, give --trust-weights (MODEL.BACKBONE.TRUST True); better, save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )


def _plain_names(state: State) -> State:
    if state and all(key.startswith(_PREFIX) for key in state):
        return {key.removeprefix(_PREFIX): value for key, value in state.items()}
    return state


def _read_npz(path: Path, digest: str) -> tuple[State, frozenset[int]]:
    sidecar = path.with_suffix(".json")
    try:
        expected = json.loads(sidecar.read_text(encoding="utf-8"))["npz_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{sidecar} does not give the npz_sha256 of {path.name}: {error}") from error
    if digest != expected:
        raise CheckpointError(
            f"{path} is damaged: SHA-256 is {digest}, {sidecar.name} says {expected}; restore the file"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        rows, ids, size = (arrays.pop(key) for key in _TOKEN_PARTS)
        table = np.zeros((int(size), rows.shape[1]), dtype=rows.dtype)
        table[ids] = rows
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as CLIP weights ({type(error).__name__}: {error})"
        ) from error
    arrays["token_embedding.weight"] = table
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, frozenset(ids.tolist())


def _read_safetensors(path: Path, shapes_only: bool = False) -> State:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ConfigError(
            f"{path} needs the package safetensors: pip install -c constraints.txt safetensors"
        ) from error
    try:
        with safe_open(path, framework="pt") as content:
            if shapes_only:
                shapes = {key: content.get_slice(key).get_shape() for key in content.keys()}  # noqa: SIM118
                return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
            return {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({_short(error)})") from error


def _read_archive(path: Path, digest: str, trust: bool) -> State:
    check_trusted(path, digest, trust)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a TorchScript archive ({_short(error)})") from error


def _read_pickle(path: Path, device: str) -> State:
    try:
        mapped = device == "cpu" and zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged (if a download broke off, get it again), or not a plain state dict, and was not loaded "
            f"({_short(error)}). Own models: torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(_is_entry(key, value) for key, value in content.items()):
        raise CheckpointError(f"{path} does not hold a state dict (a mapping of names to dense tensors)")
    if any(mark in key for key in content for mark in _OF_PROMPTS):
        raise CheckpointError(
            f"{path} holds learned prompts, not CLIP weights: MODEL.INIT_WEIGHTS FILE starts from them, and they are "
            "evaluated by train.py --eval-only --model-dir FOLDER"
        )
    return content


def _is_entry(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided


def _short(error: Any) -> str:
    """The first sentence; torch goes on with advice to switch the safety off."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:_SHOWN]}"
