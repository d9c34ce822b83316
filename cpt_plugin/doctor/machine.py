"""Judges the machine: GPU, precision, cores and threads, determinism, settings in the environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cpt_plugin.doctor.packages import build
from cpt_plugin.doctor.report import FIX, NOTE, OK, Finding
from cpt_plugin.doctor.subject import Subject

GROUP = "machine"
_GIB = 1 << 30
SHARED_MEMORY = "/dev/shm"
ENOUGH_SHARED = _GIB
"""8 workers with two batches of 100 images of 224 pixels each fill as much."""
_HIDDEN = ("", "-1", "NoDevFiles")


def nvidia_devices() -> int:
    """Number of NVIDIA GPUs that the system shows, whatever torch thinks of them."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def gpu(subject: Subject) -> Finding | None:
    """Which GPU will be used."""
    facts = subject.facts("torch")
    if not facts:
        return None
    gpus, built, devices = facts["gpus"], facts["cuda"] or facts["hip"], nvidia_devices()
    hidden = subject.environment.get("CUDA_VISIBLE_DEVICES")
    if gpus:
        text = ", ".join(f"{one['name']} ({one['bytes'] / _GIB:.0f} GiB, {one['capability']})" for one in gpus)
        if len(gpus) == 1:
            return Finding(GROUP, OK, "GPU", text)
        text = f"{len(gpus)} are visible: {text}. Prompt learning uses one, and runs are refused while more are visible"
        text += " (released trainers would split each batch by DataParallel)"
        return Finding(GROUP, FIX, "GPU", text, "export CUDA_VISIBLE_DEVICES=0")
    if hidden is not None and hidden.strip() in _HIDDEN:
        text = f"hidden by CUDA_VISIBLE_DEVICES='{hidden}': everything runs on the CPU"
        return Finding(GROUP, NOTE, "GPU", text, "unset CUDA_VISIBLE_DEVICES" if devices else "")
    if devices and not built:
        text = f"the system has {devices}, but torch is built for the CPU; for builds for CUDA see pytorch.org"
        return Finding(GROUP, NOTE, "GPU", text)
    if devices:
        said = f" ({'; '.join(facts['warnings'])})" if facts["warnings"] else ""
        text = f"the system has {devices}, but torch, {build(subject)}, cannot use it{said}: the driver is too old for "
        text += "that build, or out of order; `CUDA Version` in the answer of this command is what the driver can do"
        return Finding(GROUP, FIX, "GPU", text, "nvidia-smi")
    if built:
        packages = subject.facts("packages")["nvidia_packages"]
        brought = f" and brought {packages} nvidia packages" if packages else ""
        text = f"none, but torch is {build(subject)}{brought}: it works, and takes gigabytes for nothing. It comes of "
        text += "installing packages without torch==... on the same line; pytorch.org names the index of builds "
        text += "for the CPU"
        return Finding(GROUP, NOTE, "GPU", text)
    return Finding(GROUP, OK, "GPU", "none: everything runs on the CPU")


def precision(subject: Subject) -> Finding | None:
    """What PREC means on the device that will be used."""
    facts = subject.facts("torch")
    if not facts:
        return None
    if not facts["gpus"]:
        return Finding(GROUP, OK, "precision", "PREC fp16, amp and amp_bf16 all run in fp32 on the CPU")
    if facts["bfloat16"]:
        return Finding(GROUP, OK, "precision", "PREC fp32, fp16, amp and amp_bf16 run as asked for")
    return Finding(GROUP, OK, "precision", "PREC fp32, fp16 and amp run as asked for; amp_bf16 is refused on this GPU")


def cores(subject: Subject) -> Finding:
    """Cores that this process may use, and threads that torch would."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked, threads = subject.environment.get("OMP_NUM_THREADS"), subject.facts("torch").get("threads")
    text = f"{usable} usable of {os.cpu_count()}; threads of torch: {threads or 'unknown'}"
    text += f" (OMP_NUM_THREADS={asked})" if asked else " (OMP_NUM_THREADS is not set)"
    if threads and threads > usable:
        text += ": more than there are cores, which slows every step down"
        return Finding(GROUP, NOTE, "cores", text, f"export OMP_NUM_THREADS={usable}")
    return Finding(GROUP, OK, "cores", text)


def shared_memory(subject: Subject) -> Finding | None:
    """Whether data loader workers have room to hand over their batches."""
    try:
        total = shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        return None
    if total >= ENOUGH_SHARED:
        return None
    text = f"{SHARED_MEMORY} has {total / 2**20:,.1f} MiB, and a data loader worker that finds it full ends the run: "
    text += "give a container more (docker run --shm-size 2g), or set DATALOADER.NUM_WORKERS 0"
    return Finding(GROUP, NOTE, "shared memory", text)


def determinism(subject: Subject) -> Finding | None:
    """Whether the same seed gave the same bits twice."""
    if not subject.facts("torch"):
        return None
    answer = subject.answer("determinism")
    if answer.failure:
        return Finding(GROUP, FIX, "determinism", f"a small training does not run: {answer.failure}")
    on_gpu = answer.facts["device"] == "cuda"
    where = "on the GPU" if on_gpu else f"on the CPU, threads: {answer.facts['threads']}"
    workspace = subject.environment.get("CUBLAS_WORKSPACE_CONFIG")
    if not answer.facts["same"]:
        text = f"a small training gives other bits when repeated with the same seed ({where}): results do not recur"
        fix = "export CUBLAS_WORKSPACE_CONFIG=:4096:8" if on_gpu else "export OMP_NUM_THREADS=1"
        return Finding(GROUP, NOTE if on_gpu else FIX, "determinism", text, fix)
    text = f"a small training gives the same bits when repeated with the same seed ({where})"
    if on_gpu and not workspace:
        text += "; cuBLAS promises that only with a fixed workspace, and a resume is bit-identical on a CPU only"
        return Finding(GROUP, NOTE, "determinism", text, "export CUBLAS_WORKSPACE_CONFIG=:4096:8")
    return Finding(GROUP, OK, "determinism", text)


def variables(subject: Subject) -> Iterator[Finding]:
    """Environment variables that change results or safety without being seen."""
    harm = {
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "files loaded with torch.load may run code of their own",
        "NVIDIA_TF32_OVERRIDE": "matrix products on the GPU are rounded to other bits than PREC says",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "matrix products on the GPU are rounded to other bits than PREC says",
        "PYTHONOPTIMIZE": "assert statements, on which released trainers rely for checks, are skipped",
    }
    for name, what in harm.items():
        value = subject.environment.get(name, "")
        if value not in ("", "0"):
            yield Finding(GROUP, NOTE, "environment", f"{name}={value}: {what}", f"unset {name}")


CHECKS = (gpu, precision, cores, shared_memory, determinism, variables)
