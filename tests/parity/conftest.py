"""The released repositories, where environment variables say that they are on this machine.

CPT_RELEASED_COOP, _MAPLE, _PROMPTSRC, _DPC, _DAPT and those that the files in ``foreign/`` name: clones of those
repositories; CPT_RELEASED_DASSL: a clone of Dassl.pytorch. They are only run beside this package; nothing of them is in
this repository. They import packages of their own (NEEDED).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity import problems
from tests.parity.ours import OurRun, run_ours

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("released_worker.py")
NEEDED = {"tabulate": "tabulate", "gdown": "gdown", "wilds": "wilds==1.2.2"}
"""What Dassl imports and this package does not need, by what pip calls it."""


def released(*variables: str) -> list[str]:
    """Folders named by environment variables; skips where one is unset, fails where one or the environment is wrong."""
    missing = [name for name in variables if not os.environ.get(name)]
    if missing:
        pytest.skip(f"released code is not on this machine: set {' and '.join(missing)} (folder of a clone)")
    folders = [os.environ[name] for name in variables]
    absent = [folder for folder in folders if not Path(folder).is_dir()]
    if absent:
        pytest.fail(f"no folder {absent[0]}")
    lacking = [NEEDED[name] for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.fail(f"the released code cannot be imported here: pip install -c constraints.txt {' '.join(lacking)}")
    return folders


def subprocess_environment(*path: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*path, str(ROOT)]),
        "CPT_TOOLKIT": "embedded",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def run_released(
    repository: str, dassl: str, folder: Path, modules: list[str], cases: list[problems.Problem], **more: Any
) -> dict[str, Any]:
    """Results of the released code for all cases, from one subprocess."""
    files: dict[str, str] = {}
    job: dict[str, Any] = {
        "modules": modules,
        "problems": cases,
        "weights": {},
        **more,
    }
    for case in cases:
        key = repr(sorted(case.sizes.items()))
        if key not in files:
            files[key] = str(folder / f"weights{len(files)}.pt")
            torch.save(problems.weights(case.sizes), files[key])
        job["weights"][case.name] = files[key]
    job_file, result_file = folder / "job.pt", folder / "result.pt"
    torch.save(job, job_file)
    done = subprocess.run(
        [sys.executable, str(WORKER), repository, str(job_file), str(result_file)],
        env=subprocess_environment(dassl), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = torch.load(result_file, weights_only=False)
    results["files"] = job["weights"]
    return results


@pytest.fixture(scope="session")
def compare() -> Any:
    """Function (case, results of the released code) -> our run of the same case."""

    def ours(case: problems.Problem, results: dict[str, Any]) -> OurRun:
        return run_ours(case, results["files"][case.name])

    return ours
