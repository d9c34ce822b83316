"""Judges Python and its packages: what is missing, what does not fit together, what cannot be imported."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from cpt_plugin.doctor.probe import FAISSES
from cpt_plugin.doctor.processes import Answer
from cpt_plugin.doctor.report import FIX, NOTE, OK, Finding
from cpt_plugin.doctor.subject import BOOTSTRAP, OWN_PYTHON, RUN, Subject

GROUP = "packages"
SETUPTOOLS = "setuptools>=77.0.3,<82"
TORCHVISION_LINES = """\
from cpt_plugin.toolkit.compat import prepare_torchvision
prepare_torchvision()"""
_SHOWN = ("numpy", "pillow", "scipy", "yacs", "tqdm", "tensorboard", "requests", "safetensors", "setuptools")
_TOKENIZER_NEEDS = ("ftfy", "regex")
_MISSING_OPERATOR = "operator torchvision::nms does not exist"


def python(subject: Subject) -> Finding:
    """Which Python is looked at, and whether it is new enough."""
    answer = subject.answer("packages")
    if answer.failure:
        text = f"{subject.python} does not work: {answer.failure}"
        return Finding(GROUP, FIX, "Python", text, "PYTHON=/path/to/python3.12 bash scripts/run.sh doctor")
    facts = answer.facts
    text = f"{facts['python']}, {facts['executable']}"
    text += f" (virtual environment {facts['prefix']})" if facts["is_virtual"] else " (no virtual environment)"
    if tuple(map(int, facts["python"].split(".")[:2])) < (3, 11):
        text += ": too old, 3.11 or newer is needed"
        return Finding(GROUP, FIX, "Python", text, "PYTHON=/path/to/python3.12 bash scripts/run.sh doctor")
    return Finding(GROUP, OK, "Python", text)


def required(subject: Subject) -> Finding:
    """Whether every package is there in the minimum version of setup.py, as scripts/run.sh judges it."""
    others = [f"{name} {subject.versions[name]}" for name in _SHOWN if name in subject.versions]
    if not BOOTSTRAP.is_file():
        text = f"minimum versions are not checked outside a clone of the repository: {', '.join(others)}"
        return Finding(GROUP, NOTE, "required", text)
    asked = subprocess.run(
        [subject.python, str(BOOTSTRAP), "--missing", "run"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    if asked.returncode:
        return Finding(GROUP, NOTE, "required", f"not checked: {asked.stderr.strip()[-300:]}")
    lacking = asked.stdout.splitlines()
    if not lacking:
        return Finding(GROUP, OK, "required", f"all there: {', '.join(others)}")
    text = f"missing or too old: {', '.join(lacking)}"
    if OWN_PYTHON.exists() and OWN_PYTHON.absolute() != Path(subject.python).absolute():
        text += f"; scripts/run.sh uses {OWN_PYTHON} instead, at which `bash scripts/run.sh doctor` looks"
    if "torch" not in subject.versions:
        text += "; scripts/run.sh makes an environment .venv with everything when it is first started"
        return Finding(GROUP, FIX, "required", text, f"bash {RUN} maple_cpt shapes 0.25")
    return Finding(GROUP, FIX, "required", text, subject.pip(*(line.split(" (")[0] for line in lacking)))


def torch(subject: Subject) -> Finding | None:
    """Whether torch can be imported, and its build."""
    installed, answer = subject.version_of("torch") or "torch", subject.answer("torch")
    if answer.module == "torch":
        return None  # among the missing packages
    if answer.failure:
        text = f"{installed} cannot be used: {answer.failure}"
        return Finding(GROUP, FIX, "torch", text, mend(subject, answer, installed))
    return Finding(GROUP, OK, "torch", f"{answer.facts['version']}, {build(subject)}")


def build(subject: Subject) -> str:
    """What torch was built for, in words."""
    facts = subject.facts("torch")
    if facts["hip"]:
        return f"built for ROCm {facts['hip']}"
    return f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for the CPU"


def torchvision(subject: Subject) -> Finding | None:
    """Whether torchvision fits torch and can be imported, by itself or once repaired."""
    installed, torch_version = subject.versions.get("torchvision"), subject.versions.get("torch")
    if not installed or not torch_version:
        return None
    wanted = subject.facts("packages")["torchvision_wants"]
    if wanted and wanted != torch_version.split("+")[0]:
        text = f"torchvision {installed} was built for torch {wanted}, but torch is {torch_version}"
        return Finding(GROUP, FIX, "torchvision", text, subject.pip("torchvision"))
    if not subject.facts("torch"):
        return None
    answer, repaired = subject.answer("torchvision"), subject.answer("torchvision_repaired")
    if not answer.failure:
        return Finding(GROUP, OK, "torchvision", installed)
    if repaired.failure or not repaired.facts.get("fixes"):
        text = f"torchvision {installed} cannot be imported: {answer.failure}"
        return Finding(GROUP, FIX, "torchvision", text, mend(subject, answer, f"torchvision {installed}"))
    cause = "its compiled part wants CUDA, torch here has none" if _MISSING_OPERATOR in answer.failure else ""
    text = f"{installed}: `import torchvision` fails by itself ({answer.failure}{'; ' * bool(cause)}{cause}). "
    text += "cpt_plugin repairs it in its own processes; a script of your own needs two lines before that import:"
    return Finding(GROUP, NOTE, "torchvision", text, TORCHVISION_LINES)


def clip(subject: Subject) -> Finding | None:
    """Which CLIP `import clip` gives, and whether it can be imported."""
    facts = subject.facts("packages")
    packages, origin = facts["clips"], facts["origins"]["clip"]
    if not subject.facts("torch") or not (packages or origin):
        return None
    where = " and ".join(f"{name} {subject.versions[name]}" for name in packages) or "none installed"
    if packages == ["clip"]:
        where += " (from OpenAI's source)"
    text = f"{where}; `import clip` takes {Path(origin).parent}" if origin else where
    answer = subject.answer("clip")
    if answer.failure:
        if _lacks_pkg_resources(subject):
            return Finding(GROUP, NOTE, "clip", f"{text}; not until setuptools is mended, see there")
        text += f"; it cannot be imported: {answer.failure}"
        fix = subject.pip(distribution(answer.module)) if answer.module else ""
        if answer.module in _TOKENIZER_NEEDS:
            return Finding(GROUP, FIX, "clip", f"{text}. CLIP's tokenizer needs it", fix)
        return Finding(GROUP, NOTE, "clip", f"{text}. cpt_plugin reads the package's files without importing it", fix)
    if len(packages) > 1:
        fix = shlex.join([subject.python, "-m", "pip", "uninstall", *packages[1:]])
        fix += f"\n{subject.pip('--force-reinstall', '--no-deps', packages[0])}"
        return Finding(GROUP, NOTE, "clip", f"{text}: these overwrite each other's files; keep one", fix)
    if answer.facts and not answer.facts["is_openais"]:
        return Finding(GROUP, NOTE, "clip", f"{text}, which is not OpenAI's CLIP: own scripts will not find it there")
    return Finding(GROUP, OK, "clip", text)


def setuptools(subject: Subject) -> Finding | None:
    """Whether setuptools still has what copies of CLIP take from it."""
    if not _lacks_pkg_resources(subject):
        return None
    installed = subject.version_of("setuptools") or "setuptools, which is not installed,"
    taker = subject.version_of(*subject.facts("packages")["clips"]) or subject.facts("packages")["origins"]["clip"]
    text = f"{installed} does not give {taker} the module pkg_resources that it wants (82 and newer lack it): "
    text += "`import clip` fails in your own and in released scripts; cpt_plugin itself does not need it"
    return Finding(GROUP, FIX, "setuptools", text, subject.pip(SETUPTOOLS))


def _lacks_pkg_resources(subject: Subject) -> bool:
    facts, answer = subject.facts("packages"), subject.answer("clip")
    if not facts["clip_needs_pkg_resources"]:
        return False
    return not facts["pkg_resources"] or "pkg_resources" in answer.failure


def faiss(subject: Subject) -> Finding | None:
    """Whether FAISS clusters, and on what."""
    installed, answer = subject.version_of(*FAISSES) or "faiss", subject.answer("faiss")
    if not subject.facts("torch") or answer.module == "faiss":
        return None  # among the missing packages
    if answer.failure:
        text = f"{installed} cannot be used: {answer.failure}; CPT's clusters need it"
        return Finding(GROUP, FIX, "faiss", text, mend(subject, answer, installed))
    where = "GPU" if answer.facts["gpus"] and subject.facts("torch")["gpus"] else "CPU"
    return Finding(GROUP, OK, "faiss", f"{installed}, clusters on the {where}")


def open_clip(subject: Subject) -> Finding:
    """Whether the optional open_clip is there."""
    installed = subject.version_of("open-clip-torch")
    if installed:
        return Finding(GROUP, OK, "open_clip", installed)
    fix = subject.pip(subject.pin("open-clip-torch"))
    return Finding(GROUP, NOTE, "open_clip", "not installed; only backbones named open_clip:... need it", fix)


def mend(subject: Subject, answer: Answer, installed: str) -> str:
    """Install what an import did not find, else anew what is broken (`NAME VERSION`)."""
    if answer.module:
        return subject.pip(distribution(answer.module))
    return subject.pip("--force-reinstall", "--no-deps", installed.split("+")[0].replace(" ", "=="))


def distribution(module: str) -> str:
    """Name under which a missing module is installed."""
    top = module.split(".")[0]
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "cv2": "opencv-python"}
    return names.get(top, top)


CHECKS = (python, required, torch, torchvision, clip, setuptools, faiss, open_clip)
