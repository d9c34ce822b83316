"""What to do about a package that is not installed; standard library only."""

from __future__ import annotations

import sys
from pathlib import Path

from cpt_plugin.errors import ConfigError

_NEEDED = ("torch", "numpy", "torchvision", "clip", "faiss", "yacs", "PIL", "tqdm", "tensorboard", "requests", "scipy")
_OWN_PYTHON = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python"


def not_installed(error: ModuleNotFoundError) -> ConfigError | None:
    """What to tell a person whose Python lacks a package that the engine needs; None for any other module."""
    package = (error.name or "").partition(".")[0]
    if package not in _NEEDED:
        return None
    instead = "'bash scripts/run.sh METHOD DATASET TAU' sets up an environment with all packages, .venv, and runs in it"
    if _OWN_PYTHON.exists() and Path(sys.prefix).resolve() != _OWN_PYTHON.parents[1].resolve():
        instead = f"use {_OWN_PYTHON}, or bash scripts/run.sh METHOD DATASET TAU"
    return ConfigError(f"the package {package} is not installed for {sys.executable}: {instead}")
