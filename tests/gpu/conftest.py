"""The device of these tests, and the data that runs on it read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.prompt_runs import prepare
from tests.helpers.tiny_world import write_world

STAND_IN = "CPT_GPU_TESTS_ON"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Read by cuBLAS when it starts; deterministic algorithms need it."""


def _skip_without_cuda(remedy: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"needs a GPU: torch.cuda.is_available() is False{remedy}")


@pytest.fixture(scope="session")
def device() -> Iterator[torch.device]:
    """The GPU, with float32 products in float32 (no TF32); with CPT_GPU_TESTS_ON=cpu the CPU in its place."""
    if os.environ.get(STAND_IN) == "cpu":
        yield torch.device("cpu")
        return
    _skip_without_cuda(f" ({STAND_IN}=cpu tries these tests on the CPU)")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The GPU, for what has no meaning on a CPU."""
    _skip_without_cuda("")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of SmallShapes and TinyWorld and the weights of a tiny CLIP."""
    folder = tmp_path_factory.mktemp("gpu")
    prepare(folder)
    return write_world(folder)
