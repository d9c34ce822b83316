"""The hook on the released trainers, unmodified, on real Dassl: gradients, neutrality, refusals, logs.

A case is skipped where the clones that it needs are not named by environment variables (see conftest.py).
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.parity.conftest import released
from tests.parity.foreign import CASES
from tests.parity.foreign_cases import WEIGHTS, Case, Repository
from tests.parity.foreign_launch import run_repository, variables
from tests.parity.foreign_table import DOCUMENT

SUPPORTED = [case for case in CASES if not case.refused]
PARTS = {key.removeprefix("weight_") for key in WEIGHTS}


@functools.cache
def results_of(repository: Repository) -> dict[str, dict[str, Any]] | Exception:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run_repository(repository, Path(folder))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return error


def result_of(case: Case) -> dict[str, Any]:
    released(*variables(case.repository))
    results = results_of(case.repository)
    if isinstance(results, Exception):
        pytest.fail(str(results))
    return results[case.name]


def supported(case: Case) -> dict[str, Any]:
    """Result of a case in which the hook must work."""
    result = result_of(case)
    assert not result["refused"], result["message"]
    return result


@pytest.mark.parametrize("case", SUPPORTED, ids=lambda case: case.name)
def test_gradient_equals_the_explicit_sum(case: Case) -> None:
    result = supported(case)
    single, double = result["float32"], result["float64"]
    print(f"{case.name}: {single['tensors']} tensors, fp32 {single['gradient']:.1e}, fp64 {double['gradient']:.1e}")
    assert single["gradient"] <= 1e-6
    assert double["gradient"] <= 1e-12
    assert single["trained"] <= 1e-6
    assert double["trained"] <= 1e-10
    assert result["weight moves gradients by"] > 1e-2, "else the comparison would mean nothing"


@pytest.mark.parametrize("case", SUPPORTED, ids=lambda case: case.name)
def test_weight_zero_is_absent_and_a_weight_is_not(case: Case) -> None:
    result = supported(case)
    assert result["weight 0 identical"]
    assert result["weight changes training"]
    assert not result["attaching drew"]
    assert result["same draws"]
    assert result["same main losses"] != case.reports_late


@pytest.mark.parametrize("case", SUPPORTED, ids=lambda case: case.name)
def test_frozen_text_is_found_and_parts_are_reported(case: Case) -> None:
    result = supported(case)
    assert result["float32"]["frozen text"] <= 1e-5
    assert result["float64"]["frozen text"] <= 1e-12
    assert result["parts"].keys() == PARTS
    parts = {f"loss_{name}": value for name, value in result["parts"].items()}
    assert result["added to the summary"] == {"loss_reg": sum(result["parts"].values()), **parts}


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=lambda case: case.name)
def test_refused_with_reason_and_remedy(case: Case) -> None:
    result = result_of(case)
    assert result["refused"] in ("on attaching", "in the first step")
    assert case.refused in result["message"]
    assert ": " in result["message"], "a reason, then the remedy"


@pytest.mark.parametrize("case", [case for case in CASES if case.whole], ids=lambda case: case.name)
def test_log_lines_and_tensorboard_of_a_whole_training(case: Case) -> None:
    training = supported(case)["training"]
    assert training["lines"]
    for name in ("loss_reg", *(f"loss_{part}" for part in PARTS)):
        assert all(f" {name} " in line for line in training["lines"])
        values = training["events"][f"train/{name}"]
        assert len(values) == len(training["lines"])
        assert len(set(values)) > 1, "it changes over training"
    assert len(training["accuracies"]) == 1


@pytest.mark.parametrize("case", [case for case in CASES if case.whole], ids=lambda case: case.name)
def test_prototypes_of_a_foreign_trainer(case: Case) -> None:
    prototypes = supported(case)["prototypes"]
    assert prototypes["error"] <= 1e-5
    assert prototypes["parts"].keys() == {*PARTS, "inter", "intra"}
    assert {f"loss_{part}" for part in prototypes["parts"]} <= prototypes["summary"].keys()


def test_the_table_has_a_row_for_every_case() -> None:
    rows = [line.split("|") for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert sorted(row[1].strip() for row in rows[1:]) == sorted(case.title for case in CASES)


def test_no_two_cases_have_the_same_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
