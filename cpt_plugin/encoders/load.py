"""The one place where CLIP weights come from: the embedded micro model, OpenAI's files, or a given file."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cpt_plugin import openai_weights
from cpt_plugin._names import nearest
from cpt_plugin.encoders.frozen import FrozenCLIP, freeze_clip
from cpt_plugin.encoders.precision import resolve_precision
from cpt_plugin.errors import CheckpointError, ConfigError, DataError

ASSETS = Path(__file__).resolve().parents[1] / "assets"
_TOKEN_PARTS = ("token_embedding.rows", "token_embedding.ids", "token_embedding.vocab_size")


def available_models() -> list[str]:
    """Names that :func:`load_clip` knows, besides paths of weight files."""
    return ["micro", *openai_weights.SHA256]


def load_clip(
    name: str,
    root: str | Path | None = None,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
) -> FrozenCLIP:
    """Load frozen CLIP weights.

    Args:
        name: "micro", an OpenAI name such as "ViT-B/16", or the path of a weights file: a plain
            PyTorch state dict, one of OpenAI's archives, or an .npz beside its .json (assets/README.md).
        root: folder searched for OpenAI's files before ~/.cache/clip.
        precision: "fp32", "fp16", "amp" or "amp_bf16"; anything runs in fp32 on a CPU.
        device: where the model goes.

    Raises:
        ConfigError: unknown name or precision.
        DataError: the weights file is missing; the message says which one goes where.
        CheckpointError: the file is damaged, not what it should be, or unsafe to read.
    """
    dtype = resolve_precision(precision, device).dtype
    path = _find(name, root)
    payload = path.read_bytes()
    digest = hashlib.sha256(payload).hexdigest()
    if name in openai_weights.SHA256 and digest != openai_weights.SHA256[name]:
        raise CheckpointError(
            f"{path} is not OpenAI's {name}: SHA-256 is {digest}, expected {openai_weights.SHA256[name]}; "
            f"delete it and fetch {openai_weights.address(name)}"
        )
    state: Mapping[str, Tensor]
    vocabulary = None
    if path.suffix == ".npz":
        state, vocabulary = _read_npz(path, payload, digest)
    elif digest in openai_weights.SHA256.values():
        state = _read_archive(payload)
    else:
        state = _read_state_dict(path, payload)
    return freeze_clip(state, name=name, digest=digest, dtype=dtype, device=device, vocabulary=vocabulary)


def _find(name: str, root: str | Path | None) -> Path:
    if name == "micro":
        path = ASSETS / "micro_clip.npz"
        if not path.is_file():
            raise DataError(f"{path} is missing; reinstall cpt_plugin or run scripts/pretrain_micro_clip.py")
        return path
    if name in openai_weights.SHA256:
        return _find_openai(name, root)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".pt", ".pth", ".npz"):
        raise DataError(f"weights file {path} does not exist")
    known = available_models()
    raise ConfigError(
        f"unknown CLIP model {name!r}; nearest: {nearest(name, known)!r}; known: {', '.join(known)}, or a file's path"
    )


def _find_openai(name: str, root: str | Path | None) -> Path:
    folders = [Path(root).expanduser()] if root is not None else []
    candidates = [*(folder / openai_weights.file_name(name) for folder in folders), openai_weights.cache_file(name)]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f"weights of {name} not found; fetch {openai_weights.address(name)} "
        f"and save it as {' or '.join(map(str, candidates))}"
    )


def _read_npz(path: Path, payload: bytes, digest: str) -> tuple[dict[str, Tensor], frozenset[int]]:
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
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
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


def _read_archive(payload: bytes) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(payload), map_location="cpu").state_dict()


def _read_state_dict(path: Path, payload: bytes) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a plain state dict and was not loaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}). "
            "TorchScript archives are read only when they are OpenAI's own, known by SHA-256; "
            "save other models with torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return content
