"""The command as it is typed: in a Python that has nothing, in a broken one, and in the one that runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from cpt_plugin.cli import doctor as command
from cpt_plugin.cli.main import main
from tests.doctor.machines import machine
from tests.doctor.stubs import write_packages

ROOT = Path(__file__).resolve().parents[2]


def clean_environment(folder, **more):
    """Of this process's variables only those that any process needs."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C", **more}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with the standard library alone."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def run(python, *words, folder, **environment):
    return subprocess.run(
        [str(python), "-m", "cpt_plugin", "doctor", "--root", str(folder / "data"), *words],
        cwd=ROOT,
        env=clean_environment(folder, **environment),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def findings_of(done):
    content = json.loads(done.stdout)
    assert done.returncode == content["exit_status"], done.stderr
    return {finding["subject"]: finding for finding in content["findings"]}


def test_a_python_without_any_package_is_told_what_to_do(bare, tmp_path):
    done = run(bare, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert "FIX   required       missing or too old: torch>=2.11, numpy>=1.26" in done.stdout
    assert f"        bash {ROOT}/scripts/run.sh maple_cpt shapes 0.25" in done.stdout
    assert "ok    micro" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("to fix: 1; ")


def test_run_sh_passes_the_command_through_and_installs_nothing(bare, tmp_path):
    own = ROOT / ".venv" / "bin" / "python"
    was_there = own.exists()
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "run.sh"), "doctor", "--json", "--root", str(tmp_path)],
        env=clean_environment(tmp_path, PYTHON=str(bare)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    looked_at = json.loads(done.stdout)["facts"]["packages"]["facts"]["executable"]
    assert looked_at == str(own if was_there else bare)
    assert own.exists() is was_there


def test_a_broken_environment_is_named_trouble_by_trouble(bare, tmp_path):
    write_packages(tmp_path / "site")
    done = run(bare, "--json", folder=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    found = findings_of(done)
    assert done.returncode == 1
    assert found["torch"]["status"] == "ok"
    assert found["torchvision"]["status"] == "note"
    assert "prepare_torchvision()" in found["torchvision"]["fix"]
    assert found["setuptools"]["status"] == "FIX"
    assert "setuptools 84.0.0 does not give clip-anytorch 2.6.0" in found["setuptools"]["text"]
    assert found["setuptools"]["fix"] == f"{bare} -m pip install torch==2.13.0 'setuptools>=77.0.3,<82'"
    assert found["required"]["fix"].startswith(f"{bare} -m pip install torch==2.13.0 'faiss-cpu>=1.8'")


def test_a_mended_setuptools_is_not_named(bare, tmp_path):
    write_packages(tmp_path / "site", pkg_resources="packaging = None")
    found = findings_of(run(bare, "--json", folder=tmp_path, PYTHONPATH=str(tmp_path / "site")))
    assert "setuptools" not in found
    assert found["clip"]["status"] == "ok"


def test_an_import_that_hangs_is_named_and_the_rest_is_looked_at(bare, tmp_path):
    write_packages(tmp_path / "site", torch="import time; time.sleep(600)")
    done = run(bare, "--json", "--timeout", "4", folder=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    found = findings_of(done)
    assert found["torch"]["status"] == "FIX"
    assert "no answer within 4 s" in found["torch"]["text"]
    assert found["micro"]["status"] == "ok"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    return run(sys.executable, "--json", folder=folder, CPT_TOOLKIT="embedded", OMP_NUM_THREADS="1")


def test_the_environment_of_the_tests_needs_no_fixing(here):
    found = findings_of(here)
    assert here.stderr == ""
    broken = {subject for subject, finding in found.items() if finding["status"] == "FIX"}
    assert broken <= {"setuptools", "GPU", "disk"}, "these alone may be wrong where the tests pass"
    assert found["torch"]["status"] == found["faiss"]["status"] == found["toolkit"]["status"] == "ok"
    assert "same bits" in found["determinism"]["text"]


def test_the_report_for_programs_has_its_schema(here):
    content = json.loads(here.stdout)
    assert set(content) == {"schema", "program", "exit_status", "counts", "findings", "facts"}
    assert content["schema"] == 1
    assert sum(content["counts"].values()) == len(content["findings"]) > 10
    for finding in content["findings"]:
        assert set(finding) == {"group", "status", "subject", "text", "fix"}
        assert finding["status"] in ("ok", "note", "FIX")
        assert finding["text"]
        assert finding["fix"] or finding["status"] != "FIX"
    assert content["facts"]["torch"]["facts"]["version"]


def test_another_python_can_be_looked_at(bare, tmp_path):
    done = run(sys.executable, "--python", str(bare), "--json", folder=tmp_path)
    assert str(bare) in findings_of(done)["Python"]["text"]
    assert run(sys.executable, "--python", "/no/such/python", folder=tmp_path).returncode == 1


def test_wrong_options_are_refused_on_one_line(capsys):
    assert main(["doctor", "--timeout", "0"]) == 2
    assert main(["doctor", "--nonsense"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2
    assert "--help" in error


def test_a_check_that_fails_does_not_end_the_others(monkeypatch):
    def broken(subject):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(command, "_CHECKS", (broken, *command.materials.CHECKS))
    first, *others = command.diagnose(machine())
    assert (first.status, first.subject) == ("note", "broken")
    assert "ZeroDivisionError: by zero" in first.text
    assert len(others) >= 4


def test_a_reader_that_leaves_early_gets_no_traceback(bare, tmp_path):
    line = f"{bare} -m cpt_plugin doctor --root {tmp_path} | true"
    settings = {"cwd": ROOT, "env": clean_environment(tmp_path), "capture_output": True, "text": True}
    assert subprocess.run(["bash", "-c", line], **settings, timeout=60, check=False).stderr == ""


def test_a_terminal_without_the_characters_of_a_path_shows_the_report(bare, tmp_path):
    folder = tmp_path / "d\u00e4ta"
    done = run(bare, "--output", str(folder), folder=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "d\\xe4ta can be written" in done.stdout


def test_an_old_python_is_refused_on_one_line():
    code = "import sys, runpy; sys.version_info = (3, 9, 2); runpy.run_module('cpt_plugin', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.9 is too old: 3.11 or newer is needed\n"
