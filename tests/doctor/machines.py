"""A machine on which nothing is wrong, as the probes would describe it, to be spoilt by tests."""

from __future__ import annotations

from pathlib import Path

from cpt_plugin.doctor.processes import Answer
from cpt_plugin.doctor.subject import Subject

PYTHON = "/env/bin/python"
SITE = "/env/lib/python3.11/site-packages"
VERSIONS = {
    "torch": "2.13.0+cpu",
    "torchvision": "0.28.0+cpu",
    "clip-anytorch": "2.6.0",
    "faiss-cpu": "1.15.1",
    "numpy": "2.4.6",
    "setuptools": "81.0.0",
    "open-clip-torch": "3.3.0",
}
PACKAGES = {
    "python": "3.11.7",
    "executable": PYTHON,
    "prefix": "/env",
    "is_virtual": True,
    "versions": VERSIONS,
    "torchvision_wants": "2.13.0",
    "nvidia_packages": 0,
    "clips": ["clip-anytorch"],
    "clip_needs_pkg_resources": True,
    "pkg_resources": True,
    "origins": {"clip": f"{SITE}/clip/__init__.py", "datasets": "", "trainers": "", "dassl": "", "cpt_plugin": ""},
    "taken": {},
}
TORCH = {
    "version": "2.13.0+cpu",
    "cuda": None,
    "hip": None,
    "threads": 1,
    "gpus": [],
    "bfloat16": False,
    "warnings": [],
}
H100 = {"name": "NVIDIA H100", "bytes": 80 << 30, "capability": "9.0"}
NMS = "RuntimeError: operator torchvision::nms does not exist"


def machine(tmp_path=Path("/"), environment=None, versions=None, **answers):
    """A healthy machine; `answers` by topic are facts that differ, or an Answer in place of all."""
    healthy = {
        "packages": PACKAGES | {"versions": VERSIONS | (versions or {})},
        "torch": TORCH,
        "torchvision": {"version": "0.28.0+cpu"},
        "torchvision_repaired": {"fixes": []},
        "clip": {"file": f"{SITE}/clip/__init__.py", "is_openais": True},
        "faiss": {"version": "1.15.1", "gpus": 0},
        "toolkit": {"name": "embedded", "fixes": []},
        "determinism": {"same": True, "device": "cpu", "threads": 1},
    }
    asked = {}
    for topic in {**healthy, **answers}:
        given = answers.get(topic, {})
        asked[topic] = given if isinstance(given, Answer) else Answer({**healthy.get(topic, {}), **given})
    return Subject(tmp_path / "data", tmp_path / "output", PYTHON, asked, environment or {})


def without(name):
    """Versions without one distribution, as an Answer to the topic `packages`."""
    return Answer(PACKAGES | {"versions": {key: value for key, value in VERSIONS.items() if key != name}})
