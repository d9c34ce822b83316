"""Whole runs on the GPU: the same bits twice, and the command that a person types."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cpt_plugin.results import record as records
from tests.helpers.prompt_runs import fingerprint, prompt_cfg, train

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("OPTIM.MAX_EPOCH", 2)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic algorithms; an operation that has none raises, and says which it is."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("name", "prec"), [("CoOpCPT", "fp32"), ("MaPLeCPTB", "amp"), ("PromptSRCCPT", "amp"), ("CoCoOp", "fp32")]
)
def test_two_runs_give_the_same_bits(folder: Path, tmp_path: Path, device: torch.device, name: str, prec: str) -> None:
    """With deterministic algorithms and CUBLAS_WORKSPACE_CONFIG, which conftest.py sets."""
    node = name.split("CPT")[0].upper()
    choice = (f"TRAINER.{node}.PREC", prec, "USE_CUDA", device.type == "cuda", "DATALOADER.NUM_WORKERS", 0)
    for run in ("one", "two"):
        train(prompt_cfg(folder, tmp_path / run, name, *choice, "TRAIN.CHECKPOINT_SECONDS", 1000.0, *SHORT))
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")


def test_main_command_trains_and_records_the_device(device: torch.device, tmp_path: Path) -> None:
    command = (
        *("run", "coop_cpt", "shapes", "0.25", "--seeds", "1", "--epochs", "2", "--shots", "2", "--no-baseline"),
        *("--root", str(tmp_path / "data"), "--output", str(tmp_path / "output")),
        *("USE_CUDA", str(device.type == "cuda")),
    )
    environment = {**os.environ, "CPT_TOOLKIT": "embedded"}
    done = subprocess.run(
        [sys.executable, "-m", "cpt_plugin", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "output").rglob("record.json")
    record = records.load(path)
    assert (record.device, record.precision) == (device.type, "fp32")
    assert set(record.metrics) >= {"base", "new", "H"}
