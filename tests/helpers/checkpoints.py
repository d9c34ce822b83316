"""States to checkpoint and a bit-exact comparison of two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def prompt_state(seed: int = 0, tokens: int = 16, width: int = 512) -> dict[str, Any]:
    """A CoOp-sized training state: prompt, momentum, counters and random generator."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "format": 1,
        "epoch": seed,
        "state_dict": {"ctx": torch.randn(tokens, width, generator=generator)},
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.randn(tokens, width, generator=generator)}},
            "param_groups": [{"lr": 0.002, "betas": (0.9, 0.999), "foreach": None, "params": [0]}],
        },
        "rng": generator.get_state(),
        "config_hash": "5f2c",
    }


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row-major order, of any element type."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def identical(left: Any, right: Any) -> bool:
    """Same structure, same types, and every float and tensor equal bit for bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and raw(left) == raw(right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    return left.hex() == right.hex() if isinstance(left, float) else left == right


def make_unreadable(monkeypatch: pytest.MonkeyPatch, unreadable: Path) -> None:
    """Reading ``unreadable`` is denied, also to the superuser."""
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == unreadable:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
