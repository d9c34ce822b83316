"""Tensors that the runner's options name by file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cpt_plugin.errors import ConfigError


def read_features(name: str, path: Path) -> Tensor:
    """(K, d) features, in the order of the labels, from a file that ``torch.save(tensor)`` wrote.

    name: the option that named the file, for messages.

    Raises:
        ConfigError: there is no such file, or it holds anything but one tensor.
    """
    try:
        features = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name} {path} cannot be read ({reason}): save one tensor with torch.save") from error
    if not isinstance(features, Tensor) or features.dim() != 2:
        shape = getattr(features, "shape", None)
        found = type(features).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"
        raise ConfigError(f"{name} {path} holds {found}: save one (K, d) tensor, a row for each class")
    return features
