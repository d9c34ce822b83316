"""What is said of Python and its packages, for machines described by the test."""

from __future__ import annotations

import re
import subprocess

import pytest

from cpt_plugin.doctor import packages
from cpt_plugin.doctor.processes import Answer
from cpt_plugin.doctor.report import FIX, NOTE, OK
from tests.doctor.machines import H100, NMS, PACKAGES, VERSIONS, machine, without


def answer_of_bootstrap(monkeypatch, stdout="", returncode=0, stderr=""):
    done = subprocess.CompletedProcess([], returncode, stdout, stderr)
    monkeypatch.setattr(packages.subprocess, "run", lambda *words, **settings: done)


@pytest.mark.parametrize(
    "check", [check for check in packages.CHECKS if check not in (packages.required, packages.setuptools)]
)
def test_nothing_is_wrong_on_a_healthy_machine(check):
    assert check(machine()).status == OK


def test_setuptools_is_not_mentioned_where_it_does_no_harm():
    assert packages.setuptools(machine()) is None
    assert packages.setuptools(machine(packages={"pkg_resources": False, "clip_needs_pkg_resources": False})) is None


@pytest.mark.parametrize(("version", "status"), [("3.11.0", OK), ("3.14.1", OK), ("3.10.9", FIX), ("3.9.2", FIX)])
def test_an_old_python_is_named(version, status):
    finding = packages.python(machine(packages={"python": version}))
    assert finding.status == status
    assert version in finding.text
    assert bool(finding.fix) is (status == FIX)


def test_a_python_that_does_not_start_is_named():
    finding = packages.python(machine(packages=Answer(failure="the process ended with SIGILL")))
    assert finding.status == FIX
    assert "SIGILL" in finding.text


def test_complete_packages_are_listed(monkeypatch):
    answer_of_bootstrap(monkeypatch)
    finding = packages.required(machine())
    assert finding.status == OK
    assert "numpy 2.4.6" in finding.text


def test_missing_packages_are_installed_without_changing_torch(monkeypatch):
    answer_of_bootstrap(monkeypatch, "scipy>=1.11\nnumpy>=1.26 (found 1.24.0)\n")
    finding = packages.required(machine())
    assert finding.status == FIX
    assert "numpy>=1.26 (found 1.24.0)" in finding.text
    assert finding.fix == "/env/bin/python -m pip install torch==2.13.0 'scipy>=1.11' 'numpy>=1.26'"


def test_an_old_torch_is_not_held_when_a_newer_one_is_needed(monkeypatch):
    answer_of_bootstrap(monkeypatch, "torch>=2.11 (found 2.4.0)\nscipy>=1.11\n")
    fix = packages.required(machine(versions={"torch": "2.4.0"})).fix
    assert "torch==2.4.0" not in fix
    assert "'torch>=2.11'" in fix
    assert "-c " in fix


def test_a_python_without_anything_is_set_up_by_run_sh(monkeypatch):
    answer_of_bootstrap(monkeypatch, "torch>=2.11\nnumpy>=1.26\n")
    finding = packages.required(machine(packages=without("torch")))
    assert finding.status == FIX
    assert re.fullmatch(r"bash \S+/scripts/run\.sh maple_cpt shapes 0\.25", finding.fix)


def test_minimum_versions_that_cannot_be_had_are_a_note(monkeypatch):
    answer_of_bootstrap(monkeypatch, returncode=1, stderr="error: Python 3.9.1 is too old")
    assert packages.required(machine()).status == NOTE


def test_the_pins_are_used_where_there_is_no_torch():
    subject = machine(packages=without("torch"))
    assert re.search(r"pip install -c \S+constraints\.txt scipy$", subject.pip("scipy"))


def test_torch_missing_is_left_to_the_list_of_packages():
    missing = Answer(failure="ModuleNotFoundError: No module named 'torch'", module="torch")
    assert packages.torch(machine(packages=without("torch"), torch=missing)) is None


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (Answer(failure="no answer within 120 s"), "--force-reinstall --no-deps"),
        (Answer(failure="the process ended with SIGILL"), "--force-reinstall --no-deps"),
        (Answer(failure="No module named 'sympy'", module="sympy"), "pip install torch==2.13.0 sympy"),
    ],
)
def test_a_broken_torch_is_named_with_its_failure(answer, fix):
    finding = packages.torch(machine(torch=answer))
    assert finding.status == FIX
    assert answer.failure in finding.text
    assert fix in finding.fix
    assert "torch==2.13.0" in finding.fix


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "built for the CPU"),
        ({"cuda": "13.0"}, "built for CUDA 13.0"),
        ({"hip": "6.4"}, "built for ROCm 6.4"),
    ],
)
def test_the_build_of_torch_is_told(facts, words):
    assert words in packages.torch(machine(torch=facts)).text


def test_torchvision_that_the_repair_mends_is_a_note_with_the_two_lines():
    repaired = {"fixes": ["torchvision beside a CPU build of torch"]}
    finding = packages.torchvision(machine(torchvision=Answer(failure=NMS), torchvision_repaired=repaired))
    assert finding.status == NOTE
    assert NMS in finding.text
    assert finding.fix.splitlines() == [
        "from cpt_plugin.toolkit.compat import prepare_torchvision",
        "prepare_torchvision()",
    ]


def test_torchvision_that_the_repair_does_not_mend_needs_fixing():
    broken = Answer(failure="ImportError: libjpeg.so.62")
    finding = packages.torchvision(machine(torchvision=broken, torchvision_repaired=broken))
    assert finding.status == FIX
    assert "libjpeg" in finding.text
    assert "torchvision==0.28.0" in finding.fix
    assert "torch==2.13.0" in finding.fix


def test_torchvision_of_another_torch_is_named_whether_it_can_be_imported_or_not():
    finding = packages.torchvision(machine(packages=PACKAGES | {"torchvision_wants": "2.14.0"}))
    assert finding.status == FIX
    assert "was built for torch 2.14.0, but torch is 2.13.0+cpu" in finding.text
    assert finding.fix == "/env/bin/python -m pip install torch==2.13.0 torchvision"


GONE = Answer(failure="ModuleNotFoundError: No module named 'pkg_resources'", module="pkg_resources")
HALF = Answer(failure="ImportError: cannot import name 'packaging' from 'pkg_resources'")


@pytest.mark.parametrize(
    ("version", "present", "answer"), [("84.0.0", False, GONE), ("82.0.0", False, GONE), ("70.0.0", True, HALF)]
)
def test_setuptools_without_pkg_resources_is_pinned(version, present, answer):
    facts = PACKAGES | {"pkg_resources": present, "versions": VERSIONS | {"setuptools": version}}
    subject = machine(packages=Answer(facts), clip=answer)
    finding = packages.setuptools(subject)
    assert finding.status == FIX
    assert f"setuptools {version}" in finding.text
    assert "clip-anytorch 2.6.0" in finding.text
    assert finding.fix == "/env/bin/python -m pip install torch==2.13.0 'setuptools>=77.0.3,<82'"
    assert packages.clip(subject).status == NOTE


def test_clip_from_source_needs_no_pkg_resources():
    facts = PACKAGES | {
        "clips": ["clip"],
        "clip_needs_pkg_resources": False,
        "pkg_resources": False,
        "versions": VERSIONS | {"clip": "1.0", "setuptools": "84.0.0"},
    }
    subject = machine(packages=Answer(facts))
    assert packages.setuptools(subject) is None
    assert "clip 1.0 (from OpenAI's source)" in packages.clip(subject).text


def test_two_clips_overwrite_each_other():
    facts = PACKAGES | {"clips": ["clip-anytorch", "openai-clip"], "versions": VERSIONS | {"openai-clip": "1.0.1"}}
    finding = packages.clip(machine(packages=Answer(facts)))
    assert finding.status == NOTE
    assert "clip-anytorch 2.6.0 and openai-clip 1.0.1" in finding.text
    assert "pip uninstall openai-clip" in finding.fix


def test_another_package_called_clip_is_told_from_openais():
    assert "not OpenAI's" in packages.clip(machine(clip={"is_openais": False})).text


@pytest.mark.parametrize(("module", "status"), [("ftfy", FIX), ("regex", FIX), ("torchvision", NOTE)])
def test_what_clip_lacks_needs_fixing_when_the_tokenizer_needs_it(module, status):
    finding = packages.clip(machine(clip=Answer(failure=f"No module named '{module}'", module=module)))
    assert finding.status == status
    assert finding.fix.endswith(f" {module}")


def test_a_broken_faiss_needs_fixing():
    finding = packages.faiss(machine(faiss=Answer(failure="ImportError: libopenblas.so.0")))
    assert finding.status == FIX
    assert "faiss-cpu==1.15.1" in finding.fix


def test_a_missing_faiss_is_left_to_the_list_of_packages():
    missing = Answer(failure="No module named 'faiss'", module="faiss")
    assert packages.faiss(machine(packages=without("faiss-cpu"), faiss=missing)) is None


@pytest.mark.parametrize(("gpus", "where"), [([], "CPU"), ([H100], "GPU")])
def test_faiss_clusters_on_a_gpu_that_torch_sees_too(gpus, where):
    assert packages.faiss(machine(faiss={"gpus": 1}, torch={"gpus": gpus})).text.endswith(f"on the {where}")


@pytest.mark.parametrize("check", [packages.torchvision, packages.clip, packages.faiss])
def test_what_needs_torch_is_not_judged_without_it(check):
    hanging = Answer(failure="no answer within 120 s")
    assert check(machine(torch=hanging, torchvision=hanging, clip=hanging, faiss=hanging)) is None


def test_a_missing_open_clip_hinders_nothing():
    finding = packages.open_clip(machine(packages=without("open-clip-torch")))
    assert finding.status == NOTE
    assert "open-clip-torch" in finding.fix
