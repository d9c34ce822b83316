"""The example of a user's own trainer: it is short, runs, is regularized by its one line, and by nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_trainer.py"
HOOK = "# HOOK"


def run(script: Path, weight: str, output: Path, data: Path, toolkit: str = "embedded", *path: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*path, str(ROOT)]),
        "CPT_TOOLKIT": toolkit,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(script), weight, str(output), str(data)],
        env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def context(output: Path) -> torch.Tensor:
    return torch.load(output / "prompts" / "model.pth.tar-2", weights_only=True)["state_dict"]["context"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module draw their world, once."""
    return tmp_path_factory.mktemp("data")


def test_it_is_60_lines_of_which_one_is_the_hook():
    lines = EXAMPLE.read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 60
    assert sum(HOOK in line for line in lines[5:]) == 1
    uses = [node for node in ast.walk(ast.parse(EXAMPLE.read_text())) if getattr(node, "id", "") == "CPTHook"]
    assert len(uses) == 1


def test_it_runs_and_its_parts_are_in_log_and_output(data, tmp_path):
    text = run(EXAMPLE, "0.25", tmp_path / "run", data)
    parts = ast.literal_eval(re.search(r"toolkit embedded; parts of CPT in the last step: (\{.*\})", text)[1])
    assert set(parts) == {"etf", "cc", "rs"}
    assert all(value > 0 for value in parts.values())
    assert re.search(r"epoch \[2/2\] .* loss_etf .* loss_cc .* loss_rs ", (tmp_path / "run" / "log.txt").read_text())


def test_weight_0_is_the_example_without_its_hook(data, tmp_path):
    folder = tmp_path / "copy" / "examples"
    folder.mkdir(parents=True)
    (tmp_path / "copy" / "configs").symlink_to(ROOT / "configs")
    without = folder / "own_trainer.py"
    without.write_text("\n".join(line for line in EXAMPLE.read_text().splitlines() if not line.endswith(HOOK)))
    for script, weight, name in ((EXAMPLE, "0", "zero"), (without, "0.25", "without"), (EXAMPLE, "0.25", "cpt")):
        run(script, weight, tmp_path / name, data)
    assert torch.equal(context(tmp_path / "zero"), context(tmp_path / "without"))
    assert not torch.equal(context(tmp_path / "cpt"), context(tmp_path / "without"))


def test_it_runs_on_the_released_dassl(data, tmp_path):
    dassl = os.environ.get("CPT_RELEASED_DASSL")
    if not dassl:
        pytest.skip("released code is not on this machine: set CPT_RELEASED_DASSL (folder of a clone)")
    text = run(EXAMPLE, "0.25", tmp_path / "run", data, "dassl", dassl)
    assert re.search(r"toolkit dassl; parts of CPT in the last step: \{'etf': \d", text)
