"""The GPU benchmark on the CPU with tiny weights: what it writes, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_cases
from benchmarks.gpu_report import markdown
from cpt_plugin.encoders import resolve_precision

PRECISIONS = ("fp32", "amp", "amp_bf16", "fp16")


def run(stem: Path, *words: str) -> dict[str, Any]:
    gpu.main(["--device", "cpu", "--quick", "--out", str(stem), *words])
    return json.loads(stem.with_suffix(".json").read_text())


@pytest.mark.long
def test_every_case_gives_raw_times_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the precisions of a GPU, which the CPU is slow in but knows."""
    asked = []

    def of_a_gpu(precision: str, device: Any) -> Any:
        asked.append(precision)
        return resolve_precision(precision, "cuda")

    monkeypatch.setattr(gpu_cases, "resolve_precision", of_a_gpu)
    document = run(tmp_path / "gpu")
    keys = {f"{job}-5-{precision}" for job in ("coop", "maple", "test") for precision in PRECISIONS}
    assert document["left_out"] == {}
    assert document["results"].keys() == keys | {"losses-50"}
    assert set(asked) == set(PRECISIONS)
    for key in keys:
        times = document["results"][key]["milliseconds"]
        assert times.keys() == {"fast", "all 77"}
        assert all(len(of) == gpu.TRIES[1] and min(of) > 0 for of in times.values())
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("| CoOp with CPT | 5 |") == table.count("| MaPLe with CPT | 5 |") == len(PRECISIONS)
    assert "Left out" not in table


@pytest.mark.long
def test_what_is_out_of_budget_or_fails_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = run(tmp_path / "none", "--budget", "0")
    assert document["results"] == {}
    assert set(document["left_out"].values()) == {"budget of 0 s is spent"}

    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(gpu_cases.Bench, "trainer", full)
    document = run(tmp_path / "full")
    assert document["results"].keys() == {"losses-50"}
    assert set(document["left_out"].values()) == {"OutOfMemoryError: CUDA out of memory."}
    assert "- coop-5-fp32: OutOfMemoryError: CUDA out of memory." in (tmp_path / "full.md").read_text()


def test_table_shows_medians_ratios_and_shares() -> None:
    step = {"job": "coop", "classes": 100, "precision": "amp",
            "milliseconds": {"fast": [9, 10, 30], "all 77": [40] * 3},
            "peak_bytes": {"fast": 2**30, "all 77": 3 * 2**30}}  # fmt: skip
    alone = {
        "job": "losses",
        "classes": 100,
        "milliseconds": {"losses": [1.0, 2.0, 3.0]},
        "peak_bytes": {"losses": 2**20},
    }
    test = {"job": "test", "classes": 100, "precision": "amp", "images": 1000,
            "milliseconds": {"fast": [500], "all 77": [2000]}}  # fmt: skip
    table = markdown({
        "command": "c", "device": "GPU", "time": "t", "commit": "0123456789abc", "cuda": "13.0",
        "versions": {"torch": "2"}, "tf32": {"products": False},
        "seconds": 9.0, "quick": False, "batch": 32, "left_out": {},
        "results": {"coop-100-amp": step, "losses-100": alone, "test-100-amp": test},
    })  # fmt: skip
    assert "| CoOp with CPT | 100 | amp | 10.00 | 9.00 .. 30.00 | 40.00 | 4.00 | 1.00 / 3.00 | 20.0 % |" in table
    assert "| 100 | 2.00 | 1.00 .. 3.00 | 1 |" in table
    assert "| 100 | amp | 1000 | 2000 | 500 |" in table
    assert "Left out" not in table


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main(["--out", str(tmp_path / "gpu")])
