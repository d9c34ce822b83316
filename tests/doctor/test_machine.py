"""What is said of GPUs, precision, cores, determinism and variables, for machines described by the test."""

from __future__ import annotations

import os
import shutil

import pytest

from cpt_plugin.doctor import machine as judged
from cpt_plugin.doctor.processes import Answer
from cpt_plugin.doctor.report import FIX, NOTE, OK
from tests.doctor.machines import H100, machine

CUDA = {"version": "2.13.0+cu130", "cuda": "13.0"}


@pytest.fixture
def devices(monkeypatch):
    """Sets how many NVIDIA GPUs the system shows."""

    def set_number(number):
        monkeypatch.setattr(judged, "nvidia_devices", lambda: number)

    set_number(0)
    return set_number


def test_a_cpu_is_enough(devices):
    subject = machine()
    assert judged.gpu(subject).status == OK
    assert "all run in fp32 on the CPU" in judged.precision(subject).text


def test_one_gpu_is_named_with_its_memory(devices):
    finding = judged.gpu(machine(torch=CUDA | {"gpus": [H100], "bfloat16": True}))
    assert finding.status == OK
    assert finding.text == "NVIDIA H100 (80 GiB, 9.0)"


def test_several_gpus_are_refused_by_runs(devices):
    finding = judged.gpu(machine(torch=CUDA | {"gpus": [H100, H100]}))
    assert finding.status == FIX
    assert finding.fix == "export CUDA_VISIBLE_DEVICES=0"
    assert "DataParallel" in finding.text


@pytest.mark.parametrize(("able", "words"), [(True, "amp_bf16 run as asked"), (False, "amp_bf16 is refused")])
def test_bfloat16_depends_on_the_gpu(able, words):
    assert words in judged.precision(machine(torch=CUDA | {"gpus": [H100], "bfloat16": able})).text


def test_a_cuda_build_without_a_gpu_is_a_note(devices):
    finding = judged.gpu(machine(torch=CUDA, packages={"nvidia_packages": 18}))
    assert finding.status == NOTE
    assert "brought 18 nvidia packages" in finding.text


def test_a_gpu_that_a_cpu_build_cannot_see_is_a_note(devices):
    devices(1)
    finding = judged.gpu(machine())
    assert finding.status == NOTE
    assert "torch is built for the CPU" in finding.text


def test_a_gpu_that_a_cuda_build_cannot_use_needs_fixing(devices):
    devices(1)
    finding = judged.gpu(machine(torch=CUDA | {"warnings": ["The NVIDIA driver on your system is too old"]}))
    assert finding.status == FIX
    assert "driver on your system is too old" in finding.text


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_hidden_gpu_is_no_broken_driver(devices, value):
    devices(1)
    finding = judged.gpu(machine(torch=CUDA, environment={"CUDA_VISIBLE_DEVICES": value}))
    assert finding.status == NOTE
    assert finding.fix == "unset CUDA_VISIBLE_DEVICES"


def test_more_threads_than_cores_slow_a_run_down():
    usable = len(os.sched_getaffinity(0))
    finding = judged.cores(machine(torch={"threads": usable + 1}, environment={"OMP_NUM_THREADS": str(usable + 1)}))
    assert finding.status == NOTE
    assert finding.fix == f"export OMP_NUM_THREADS={usable}"
    assert judged.cores(machine()).status == OK


def test_bits_that_differ_need_fixing_on_a_cpu():
    finding = judged.determinism(machine(determinism={"same": False, "threads": 4}))
    assert finding.status == FIX
    assert finding.fix == "export OMP_NUM_THREADS=1"
    assert judged.determinism(machine()).status == OK


@pytest.mark.parametrize(
    ("same", "workspace", "status"),
    [(True, "", NOTE), (True, ":4096:8", OK), (False, "", NOTE), (False, ":4096:8", NOTE)],
)
def test_a_gpu_is_deterministic_with_a_fixed_workspace(same, workspace, status):
    variables = {"CUBLAS_WORKSPACE_CONFIG": workspace} if workspace else {}
    finding = judged.determinism(machine(determinism={"same": same, "device": "cuda"}, environment=variables))
    assert finding.status == status
    assert ("CUBLAS_WORKSPACE_CONFIG" in finding.fix) is (status == NOTE)


def test_a_training_that_does_not_run_needs_fixing():
    finding = judged.determinism(machine(determinism=Answer(failure="the process ended with SIGILL")))
    assert finding.status == FIX
    assert "SIGILL" in finding.text


def test_variables_that_do_harm_unseen_are_named():
    assert list(judged.variables(machine(environment={"PYTHONOPTIMIZE": "0", "HOME": "/"}))) == []
    (finding,) = judged.variables(machine(environment={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}))
    assert finding.status == NOTE
    assert finding.fix == "unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@pytest.mark.parametrize("check", [judged.gpu, judged.precision, judged.determinism])
def test_nothing_is_said_of_what_torch_alone_could_tell(check):
    assert check(machine(torch=Answer(failure="No module named 'torch'", module="torch"))) is None


def test_little_shared_memory_is_a_note(monkeypatch):
    room = shutil.disk_usage("/")
    for total, said in ((64 << 20, "/dev/shm has 64.0 MiB"), (2 << 30, None)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, total=total: room._replace(total=total))
        finding = judged.shared_memory(machine())
        assert (finding and finding.status) == (said and NOTE)
        assert finding is None or (said in finding.text and "--shm-size" in finding.text)
    monkeypatch.undo()
    monkeypatch.setattr(judged, "SHARED_MEMORY", "/nowhere")
    assert judged.shared_memory(machine()) is None
