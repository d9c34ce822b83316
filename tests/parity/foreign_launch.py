"""Runs the cases of one released repository in a subprocess and returns what came of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.parity.foreign import CASES
from tests.parity.foreign_cases import Repository

ROOT = Path(__file__).resolve().parents[2]


def variables(repository: Repository) -> list[str]:
    """Environment variables that must name clones: the repository, and Dassl unless it brings its own copy."""
    return [repository.variable] if repository.dassl else [repository.variable, "CPT_RELEASED_DASSL"]


def code_of(repository: Repository) -> Path:
    """Folder of the repository's ``train.py``."""
    return Path(os.environ[repository.variable]).resolve() / repository.folder


def run_repository(repository: Repository, folder: Path) -> dict[str, dict[str, Any]]:
    """Results of :mod:`tests.parity.foreign_worker` by name of the case; nothing is written into the clones.

    Raises:
        RuntimeError: the process failed; with the end of its output.
    """
    clone = Path(os.environ[repository.variable]).resolve()
    dassl = clone / repository.dassl if repository.dassl else Path(os.environ["CPT_RELEASED_DASSL"]).resolve()
    indices = [str(i) for i, case in enumerate(CASES) if case.repository == repository]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(dassl), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "CPT_TOOLKIT": "embedded",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    result = folder / "result.pt"
    command = [sys.executable, "-m", "tests.parity.foreign_worker", str(folder), ",".join(indices), str(result)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120 * len(indices)
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return torch.load(result)
