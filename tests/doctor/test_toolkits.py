"""What is said of the toolkit, Dassl and names taken by other folders."""

from __future__ import annotations

import pytest

from cpt_plugin.doctor import toolkits
from cpt_plugin.doctor.processes import Answer
from cpt_plugin.doctor.report import FIX, NOTE, OK
from tests.doctor.machines import NMS, PACKAGES, machine

FIXES = ["warm-up schedulers without `verbose`", "log records not switched off"]


@pytest.fixture
def dassl(tmp_path):
    """Changes of the facts that make a Dassl importable; it lies in no checkout."""
    folder = tmp_path / "dassl"
    folder.mkdir()
    (folder / "__init__.py").write_text('__version__ = "0.6.3"\n')
    return PACKAGES | {"origins": PACKAGES["origins"] | {"dassl": str(folder / "__init__.py")}}


def test_the_embedded_toolkit_serves():
    finding = toolkits.toolkit(machine(environment={"CPT_TOOLKIT": "embedded"}))
    assert finding.status == OK
    assert finding.text == "embedded serves (CPT_TOOLKIT=embedded)"


def test_a_serving_dassl_is_told_from_what_run_sh_takes():
    assert "run.sh uses the embedded one" in toolkits.toolkit(machine(toolkit={"name": "dassl"})).text


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (Answer(failure="ConfigError: CPT_TOOLKIT='x' is not one of"), "export CPT_TOOLKIT=embedded"),
        (Answer(failure="No module named 'yacs'", module="yacs"), "pip install torch==2.13.0 yacs"),
    ],
)
def test_a_toolkit_that_cannot_be_imported_needs_fixing(answer, fix):
    finding = toolkits.toolkit(machine(toolkit=answer))
    assert finding.status == FIX
    assert answer.failure in finding.text
    assert finding.fix.endswith(fix)


def test_nothing_is_said_of_an_absent_dassl():
    assert list(toolkits.dassl(machine())) == []


def test_a_repaired_dassl_is_a_note_with_its_repairs_and_version(dassl):
    subject = machine(packages=Answer(dassl), dassl=Answer(failure=NMS), dassl_repaired={"fixes": FIXES})
    (finding,) = toolkits.dassl(subject)
    assert finding.status == NOTE
    assert "0.6.3 in" in finding.text
    assert all(fix in finding.text for fix in FIXES)
    assert NMS in finding.text
    assert finding.fix == "python -m cpt_plugin --regularizers none train.py ..."


def test_lost_log_records_are_told_with_the_lines_that_bring_them_back(dassl):
    subject = machine(packages=Answer(dassl), dassl={"logging_disabled": 30}, dassl_repaired={"fixes": FIXES})
    finding = list(toolkits.dassl(subject))[1]
    assert finding.status == NOTE
    assert "logging.disable(logging.NOTSET)" in finding.fix


@pytest.mark.parametrize(("served", "status"), [("embedded", NOTE), ("dassl", FIX)])
def test_a_dassl_that_lacks_something_hinders_only_those_whom_it_serves(dassl, served, status):
    failure = Answer(failure="ConfigError: Dassl is there but cannot be imported (No module named 'tabulate')")
    toolkit = {"name": "embedded"} if served == "embedded" else failure
    subject = machine(packages=Answer(dassl), dassl=failure, dassl_repaired=failure, toolkit=toolkit)
    (finding,) = toolkits.dassl(subject)
    assert finding.status == status
    assert "tabulate" in finding.text
    assert "pip install torch==2.13.0 yacs gdown tabulate" in finding.fix
    assert ("CPT_TOOLKIT=embedded" in finding.fix) is (status == FIX)
    assert (toolkits.toolkit(subject) is None) is (status == FIX), "one trouble is told once"


def test_a_copy_of_clip_in_a_repository_is_a_note():
    facts = PACKAGES | {"origins": PACKAGES["origins"] | {"clip": "/home/me/MaPLe/clip/__init__.py"}}
    (finding,) = toolkits.names(machine(packages=Answer(facts)))
    assert finding.status == NOTE
    assert "/home/me/MaPLe/clip" in finding.text
    assert list(toolkits.names(machine())) == []


def test_names_that_a_repository_takes_from_ours_need_fixing():
    taken = PACKAGES | {"taken": {"trainers": "/home/me/MaPLe/trainers/__init__.py"}}
    (finding,) = toolkits.names(machine(packages=Answer(taken)))
    assert finding.status == FIX
    assert "/home/me/MaPLe/trainers" in finding.text
    assert "unset PYTHONPATH" in finding.fix
