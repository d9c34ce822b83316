"""The benchmark's arithmetic: ratios, extrapolation, goals, and a run of it with tiny steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import our_side
from benchmarks.cases import GOALS, JOBS, Case, class_names
from benchmarks.compare import compare, extrapolated, ratios, seconds
from benchmarks.report import markdown, ratio_of
from benchmarks.worker import counted
from cpt_plugin.errors import ConfigError, TrainingError


def result(
    job: str, classes: int, ours: list[float], theirs: list[float] | None, against: str = "released"
) -> dict[str, Any]:
    """As ``compare`` gives it; the first step of a side is the counted one."""

    def steps(times: list[float], flops: int) -> list[dict[str, float]]:
        counted = {"flops": flops, "kept_bytes": flops, "first_seconds": 99.0, "peak_bytes": 2**30}
        return [counted, *({"seconds": t, "cpu_seconds": 0.5 * t, "peak_bytes": 2**31} for t in times)]

    found = {"case": Case(job, classes, 4).as_dict(), "threads": 1, "against": against, "fits": theirs is not None}
    found["ours"] = steps(ours, 10)
    if theirs is not None:
        found["theirs"] = steps(theirs, 150)
    return found


def test_ratios_are_those_of_pairs_and_leave_the_counted_step_out() -> None:
    found = result("coop", 5, [1.0, 2.0, 4.0], [2.0, 8.0, 4.0])
    assert ratios(found) == [2.0, 4.0, 1.0]
    assert ratio_of(found, [found]) == (2.0, "M")
    assert seconds(found, "ours") == 2.0


def test_what_does_not_fit_is_extrapolated_by_a_line_through_large_sizes() -> None:
    measured = [result("maple", k, [1.0], [3.0 + 0.1 * k]) for k in (125, 250, 500)]
    small, large = result("maple", 5, [1.0], [50.0]), result("maple", 1000, [4.0, 6.0], None)
    assert extrapolated(measured, 1000) == pytest.approx(103.0)
    assert ratio_of(large, [*measured, small, large]) == (pytest.approx(103.0 / 5.0), "E")
    assert ratio_of(large, [measured[0], large]) is None, "one size makes no line"
    assert ratio_of(large, [result("coop", k, [1.0], [1.0]) for k in (125, 250)] + [large]) is None, "of another job"


def document(*results: dict[str, Any]) -> dict[str, Any]:
    by_key = {f"{r['case']['job']}-{r['case']['classes']}": r for r in results}
    about = {"command": "c", "commit": "0" * 40, "time": "t", "machine": "m", "versions": {"torch": "2"}}
    return {"results": by_key, "made": [{**about, "measured": list(by_key)}]}


def test_goals_are_read_line_by_line() -> None:
    text = markdown(document(
        result("coop", 500, [1.0], [5.5]), result("maple", 500, [1.0], [7.9]), result("evaluation", 500, [1.0], [2.5]),
    ))  # fmt: skip
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 5.50 [M] | 5.50 [M] | yes | 6x: **no** |" in lines["CoOp step, batch 32, K = 500: 5x"]
    assert "| 7.90 [M] | 7.90 [M] | **no** | 12x: **no** |" in lines["MaPLe step, batch 4, K = 500: 8x"]
    assert "| 2.50 [M] | 2.50 [M] | yes | 2.2x: yes |" in lines[f"{JOBS['evaluation'].title}, K = 500: 2x"]
    assert sum("not measured" in line for line in text.splitlines()) == len(GOALS) - 3


def test_clock_and_cpu_time_may_disagree() -> None:
    found = result("coop", 500, [2.0], [9.0])
    for step in found["ours"][1:]:
        step["cpu_seconds"] = 0.75
    lines = markdown(document(found)).splitlines()
    (line,) = [line for line in lines if line.startswith("| CoOp step, batch 32, K = 500")]
    assert "| 4.50 [M] | 6.00 [M] | in CPU time only | 6x: in CPU time only |" in line


def test_the_reference_is_no_goal() -> None:
    text = markdown(document(result("coop", 500, [1.0], [50.0], against="reference")))
    assert "| CoOp step, batch 32 | 500 | reference | 1 | 50.00 | 1.00 | 50.00 [M] |" in text
    assert "goal" not in text


def test_names_are_distinct_and_long_as_said() -> None:
    assert len(set(class_names(1000))) == 1000
    with pytest.raises(ConfigError, match="1001 classes"):
        class_names(1001)


@pytest.mark.long
def test_the_command_measures_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the reference, one job of tiny size in two processes."""
    for name in ("COOP", "MAPLE", "DPC", "DASSL"):
        monkeypatch.delenv(f"CPT_RELEASED_{name}", raising=False)
    arguments = ["--quick", "--jobs", "coop", "--sizes", "3", "--pairs", "2", "--output", str(tmp_path / "out")]
    command.main(arguments)
    found = json.loads((tmp_path / "out.json").read_text())
    (measured,) = found["results"].values()
    assert measured["against"] == "reference"
    assert len(ratios(measured)) == 2
    assert measured["theirs"][0]["flops"] > 3 * measured["ours"][0]["flops"]
    assert measured["theirs"][0]["kept_bytes"] > 5 * measured["ours"][0]["kept_bytes"]
    monkeypatch.setattr(command, "compare", lambda *_: pytest.fail("measured again"))
    command.main(arguments)
    text = (tmp_path / "out.md").read_text()
    assert "reference" in text
    assert text.count("python -m benchmarks --quick --jobs coop") == 1, "only a command that measured something"
    command.main([*arguments, "--jobs", "loader"])
    rows = json.loads((tmp_path / "out.json").read_text())["loader"]["rows"]
    assert [(row["workers"], row["cached"]) for row in rows] == [(w, c) for w in (0, 1, 2) for c in (False, True)]
    assert all(10 < row["per_cpu_second"] < 100_000 for row in rows)
    text = (tmp_path / "out.md").read_text()
    assert "--jobs loader` at commit" in text
    assert "| 2 | yes |" in text


@pytest.mark.long
def test_the_whole_training_of_the_main_job(tmp_path: Path) -> None:
    """One epoch of it: fewer products of matrices than with all 77 positions."""
    flops = {}
    for side in ("ours", "reference"):
        train, model = our_side.build(Case("main", 24, 4, quick=True), str(tmp_path / "weights"), side)
        assert model is None
        flops[side] = counted(train, [])["flops"]
        assert list((tmp_path / "main").glob(f"{side}2/*/model.pth.tar-1")), "trained to its end"
    assert flops["reference"] > 1.5 * flops["ours"]


def test_a_side_that_dies_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)ours side stopped.*(No such file|not found|exist)"):
        compare(Case("coop", 3, 2, quick=True), str(tmp_path / "missing.pt"), 1, 1)
