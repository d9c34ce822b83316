"""Fixtures of the trainers' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cpt_plugin.encoders import FrozenCLIP
from tests.helpers.prompt_runs import prepare
from tests.helpers.tiny_clip import tiny_clip
from tests.helpers.tiny_world import write_world


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of SmallShapes and TinyWorld and the weights of a tiny CLIP."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trainers")
    prepare(folder)
    return write_world(folder)


@pytest.fixture(scope="session")
def clip() -> FrozenCLIP:
    """A tiny CLIP of three blocks whose towers differ in width."""
    return tiny_clip(64, 128, 3)
