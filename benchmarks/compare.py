"""Two workers that take turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.cases import JOBS, Case
from cpt_plugin.errors import TrainingError

ROOT = Path(__file__).resolve().parents[1]


class Side:
    """One worker process; idle unless it is asked."""

    def __init__(self, side: str, case: Case, weights: str, threads: int) -> None:
        self.side = side
        path = [str(ROOT)]
        if side == "released":
            path.append(os.environ["CPT_RELEASED_DASSL"])
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": str(threads),
            "CPT_TOOLKIT": "embedded", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.worker", side, str(threads), weights, json.dumps(case.as_dict())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip
        self._answer()

    def ask(self, command: str) -> dict[str, Any]:
        """Run one step in the worker and return what it measured."""
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        assert self._process.stderr
        end = self._process.stderr.read()[-2000:]
        raise TrainingError(f"The {self.side} side stopped (exit {self._process.wait()}):\n{end}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def other_side(case: Case) -> str:
    """ "released" where the environment names its code, else "reference"."""
    names = (JOBS[case.job].variable, "CPT_RELEASED_DASSL")
    return "released" if all(name and os.environ.get(name) for name in names) else "reference"


def compare(case: Case, weights: str, pairs: int, threads: int) -> dict[str, Any]:
    """Steps of both sides in turn, ``pairs`` of each, after one counted step of each that is not timed.

    Where the other side would not fit in memory ours runs alone, as many times.
    """
    job, other = JOBS[case.job], other_side(case)
    fits = case.classes <= job.in_memory
    result: dict[str, Any] = {"case": case.as_dict(), "threads": threads, "against": other, "fits": fits}
    with Side("ours", case, weights, threads) as ours:
        result["ours"] = [ours.ask("count")]
        if not fits:
            result["ours"] += [ours.ask("step") for _ in range(pairs)]
            return result
        with Side(other, case, weights, threads) as theirs:
            result["theirs"] = [theirs.ask("count")]
            for _ in range(pairs):
                result["theirs"].append(theirs.ask("step"))
                result["ours"].append(ours.ask("step"))
    return result


def ratios(result: dict[str, Any], what: str = "seconds") -> list[float]:
    """Theirs / ours of each pair."""
    return [b[what] / a[what] for a, b in zip(result["ours"][1:], result["theirs"][1:], strict=True)]


def seconds(result: dict[str, Any], side: str, what: str = "seconds") -> float:
    """Median seconds of one side's timed steps: of the clock, or of its processor time ("cpu_seconds")."""
    return statistics.median(step[what] for step in result[side][1:])


def extrapolated(results: Sequence[dict[str, Any]], classes: int, what: str = "seconds") -> float:
    """Seconds of the other side at K classes: the least-squares line in K through its measured medians.

    Raises:
        ValueError: fewer than two sizes were measured.
    """
    points = [(r["case"]["classes"], seconds(r, "theirs", what)) for r in results if r["fits"]]
    slope, base = statistics.linear_regression([k for k, _ in points], [s for _, s in points])
    return slope * classes + base
