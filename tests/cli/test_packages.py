"""A Python without the engine's packages gets one line from every command that needs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin.cli.packages import not_installed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--trainer", "CoOp"],
        ["-m", "cpt_plugin", "run", "coop", "shapes", "0.25", "--seeds", "1"],
        ["-m", "cpt_plugin", "train.py"],
        ["-m", "cpt_plugin", "report", "output"],
    ],
)
def test_a_bare_python_is_told_which_one_to_use(words):
    done = subprocess.run(
        [sys.executable, "-S", "-E", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "is not installed for" in done.stderr
    assert "bash scripts/run.sh" in done.stderr


def test_a_module_of_somebody_else_is_no_matter_of_ours():
    assert not_installed(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert "torch" in str(not_installed(ModuleNotFoundError("...", name="torch.nn")))
