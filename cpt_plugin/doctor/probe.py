"""Questions that are answered inside the Python that is looked at, one a process: an import may crash or hang.

Not imported but run, by :mod:`processes`, as ``probe.py TOPIC ANSWER PACKAGE``: it writes what it found about TOPIC
to the JSON file ANSWER. PACKAGE is the folder of cpt_plugin. It must start in Pythons too old for the rest of the
package, and needs the standard library alone until it comes to the import in question.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

CLIPS = ("clip-anytorch", "openai-clip", "clip")
FAISSES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss")
DISTRIBUTIONS = (
    *("torch", "torchvision", *CLIPS, "open-clip-torch", *FAISSES, "numpy", "pillow", "yacs", "tqdm", "tensorboard"),
    *("requests", "safetensors", "scipy", "setuptools", "dassl"),
)
FORK_NAMES = ("clip", "datasets", "trainers")


def packages(package: Path) -> dict[str, Any]:
    """Python, versions read from metadata, and where names would be imported from; imports none of them."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "is_virtual": sys.prefix != sys.base_prefix,
        "versions": {name: version for name in DISTRIBUTIONS if (version := _version(name))},
        "torchvision_wants": _wanted_torch(),
        "nvidia_packages": sum(name.startswith("nvidia-") for name in _installed_names()),
        "clips": [name for name in CLIPS if _holds_clip(name)],
        "clip_needs_pkg_resources": _mentions(_origin("clip"), "pkg_resources"),
        "pkg_resources": bool(_origin("pkg_resources")),
        "origins": {name: _origin(name) for name in (*FORK_NAMES, "dassl", "cpt_plugin")},
        "taken": _taken(package.parent),
    }


def torch(package: Path) -> dict[str, Any]:
    """The build of torch, whether NumPy works with it, threads and GPUs."""
    import torch

    import numpy  # isort: skip  # torch first: where both are missing, torch is what is named

    torch.from_numpy(numpy.zeros(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        count = torch.cuda.device_count() if available else 0
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "threads": torch.get_num_threads(),
        "gpus": [_gpu(torch.cuda.get_device_properties(index)) for index in range(count)],
        "bfloat16": bool(count and torch.cuda.is_bf16_supported()),
        "warnings": [str(warning.message) for warning in caught],
    }


def torchvision(package: Path) -> dict[str, Any]:
    """Whether torchvision can be imported as it is."""
    import torchvision

    return {"version": torchvision.__version__}


def torchvision_repaired(package: Path) -> dict[str, Any]:
    """Whether torchvision can be imported after cpt_plugin's repair."""
    repair = _repair(package)
    repair.prepare_torchvision()
    import torchvision.transforms  # noqa: F401

    return {"fixes": list(repair.APPLIED)}


def clip(package: Path) -> dict[str, Any]:
    """Whether `import clip` works once torchvision does."""
    _repair(package).prepare_torchvision()
    import clip

    return {"file": clip.__file__, "is_openais": hasattr(clip, "load") and hasattr(clip, "tokenize")}


def faiss(package: Path) -> dict[str, Any]:
    """Whether FAISS clusters in one process with torch."""
    import numpy
    import torch  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import faiss
    kmeans = faiss.Kmeans(4, 2, niter=2, seed=0, min_points_per_centroid=1)
    kmeans.train(numpy.eye(8, 4, dtype="float32"))
    return {"version": faiss.__version__, "gpus": getattr(faiss, "get_num_gpus", lambda: 0)()}


def toolkit(package: Path) -> dict[str, Any]:
    """Which toolkit serves, and what it had to repair."""
    if importlib.util.find_spec("cpt_plugin") is None:
        sys.path.append(str(package.parent))
    import cpt_plugin.toolkit
    from cpt_plugin.toolkit.compat import applied_fixes

    return {"name": cpt_plugin.toolkit.NAME, "fixes": list(applied_fixes())}


def dassl(package: Path) -> dict[str, Any]:
    """Whether Dassl can be imported as it is, and whether log records get lost by it."""
    import dassl.engine

    return {"version": getattr(dassl, "__version__", ""), "logging_disabled": logging.root.manager.disable}


def dassl_repaired(package: Path) -> dict[str, Any]:
    """Whether Dassl serves as the toolkit after cpt_plugin's repairs."""
    os.environ["CPT_TOOLKIT"] = "dassl"
    return toolkit(package)


def determinism(package: Path) -> dict[str, Any]:
    """Train something small twice from one seed and compare the bits."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    first, second = (_train_a_little(torch, device) for _ in range(2))
    return {"same": first == second, "device": device, "threads": torch.get_num_threads()}


def _train_a_little(torch: Any, device: str) -> str:
    """SHA-256 of the weights of a transformer layer after three steps; large enough to be split among threads."""
    torch.manual_seed(7)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.1, batch_first=True).to(device)
    images = torch.randn(32, 3, 32, 32).to(device)
    patches = torch.nn.Conv2d(3, 128, 8, stride=8).to(device)
    parameters = [*layer.parameters(), *patches.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        layer(patches(images).flatten(2).transpose(1, 2)).square().mean().backward()
        optimizer.step()
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _installed_names() -> list[str]:
    return [(found.metadata["Name"] or "").lower() for found in importlib.metadata.distributions()]


def _wanted_torch() -> str:
    """The torch version that the installed torchvision was built for; "" if it does not say."""
    wanted = importlib.metadata.requires("torchvision") or [] if _version("torchvision") else []
    exact = [line.split("==")[1] for line in wanted if line.replace(" ", "").startswith("torch==")]
    return exact[0].split(";")[0].strip(" ()") if exact else ""


def _holds_clip(name: str) -> bool:
    """Whether a distribution is installed and is OpenAI's CLIP (an unrelated one is called `clip` too)."""
    if not _version(name):
        return False
    folder = Path(str(importlib.metadata.distribution(name).locate_file("clip")))
    return (folder / "simple_tokenizer.py").is_file()


def _origin(name: str) -> str:
    """File or folder that `import name` would load; "" for none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return ""
    if spec is None:
        return ""
    return spec.origin or str(next(iter(spec.submodule_search_locations or ()), ""))


def _mentions(origin: str, word: str) -> bool:
    """Whether a package's own files hold a word."""
    folder = Path(origin).parent
    return bool(origin) and any(word in file.read_text("utf-8", "ignore") for file in folder.glob("*.py"))


def _taken(repository: Path) -> dict[str, str]:
    """What our `datasets` and `trainers` would be taken from, where that is not our repository."""
    if not (repository / "trainers").is_dir():
        return {}
    path = sys.path if str(repository) in sys.path else [str(repository), *sys.path]
    specs = {name: importlib.machinery.PathFinder.find_spec(name, path) for name in ("datasets", "trainers")}
    origins = {name: spec.origin or "" for name, spec in specs.items() if spec is not None}
    return {name: origin for name, origin in origins.items() if repository not in Path(origin).resolve().parents}


def _gpu(properties: Any) -> dict[str, Any]:
    return {
        "name": properties.name,
        "bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _repair(package: Path) -> Any:
    """cpt_plugin's repair of torchvision, without the rest of the package, which this Python may not have."""
    spec = importlib.util.spec_from_file_location("cpt_plugin_repair", str(package / "_torchvision.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # what it declares vanishes with it
    spec.loader.exec_module(module)
    return module


TOPICS = {
    question.__name__: question
    for question in (
        *(packages, torch, torchvision, torchvision_repaired, clip, faiss),
        *(toolkit, dassl, dassl_repaired, determinism),
    )
}


def main(topic: str, answer: str, package: str) -> None:
    """Write ``facts``, or the ``failure`` of an import in one line and the ``module`` that was not found."""
    try:
        content: dict[str, Any] = {"facts": TOPICS[topic](Path(package))}
    except BaseException as error:  # an import may end in any way, even with SystemExit
        text = " ".join(str(error).split())
        missing = error.name if isinstance(error, ModuleNotFoundError) else ""
        content = {"failure": f"{type(error).__name__}: {text[:300]}", "module": missing or ""}
    temporary = answer + ".tmp"
    Path(temporary).write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, answer)


if __name__ == "__main__":
    main(*sys.argv[1:4])
