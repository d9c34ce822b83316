"""R24: importing the package loads torch and numpy at most, and takes no time of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("faiss", "dassl", "clip", "torchvision", "matplotlib", "sklearn")


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import cpt_plugin",
        "from cpt_plugin import CPTHook, CPTLoss, SemanticClusters, etf_separation, rotation_stabilization",
    ],
)
def test_nothing_heavy_is_loaded(statement):
    assert python(f"{statement}; import sys; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_the_check_would_see_a_heavy_module():
    assert python(f"import sys, faiss; print([m for m in {HEAVY} if m in sys.modules])") == "['faiss']"


def test_the_import_costs_less_than_a_third_of_a_second_of_the_processor_beyond_torch():
    code = (
        "import torch, numpy, time; start = time.process_time(); import cpt_plugin; "
        "from cpt_plugin import CPTError; print(time.process_time() - start)"
    )
    assert min(float(python(code)) for _ in range(2)) < 0.3
