"""Writing and reading ``micro_clip.npz`` (layout: ``cpt_plugin/assets/README.md``) and its JSON twin."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from micro_clip.model import MicroClip

ROWS, IDS, SIZE = "token_embedding.rows", "token_embedding.ids", "token_embedding.vocab_size"


def save_weights(model: MicroClip, path: Path) -> str:
    """Write the weights as float16 and return the SHA-256 of the file; replaces ``path`` atomically."""
    arrays = {name: value.detach().half().numpy() for name, value in model.clip.state_dict().items()}
    arrays[ROWS] = model.rows.detach().half().numpy()
    arrays[IDS] = model.ids.numpy().astype(np.int32)
    arrays[SIZE] = np.int32(model.architecture.vocab_size)
    temporary = path.with_suffix(".npz.partial")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_weights(model: MicroClip, path: Path) -> None:
    """Put stored weights into a model of the same architecture and vocabulary."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    if not torch.equal(arrays.pop(IDS).long(), model.ids):
        raise ValueError(f"{path} was trained on another vocabulary")
    arrays.pop(SIZE)
    model.rows.data.copy_(arrays.pop(ROWS))
    model.clip.load_state_dict({name: value.float() for name, value in arrays.items()})


def save_description(description: dict[str, Any], path: Path) -> None:
    """Write the JSON twin atomically."""
    temporary = path.with_suffix(".json.partial")
    temporary.write_text(json.dumps(description, indent=1) + "\n")
    temporary.replace(path)
