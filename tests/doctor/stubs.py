"""Packages that look, to the doctor, like a CPU build of torch with the trouble that often comes with it."""

from __future__ import annotations

TORCH = """
import types
__version__ = "2.13.0+cpu"
version = types.SimpleNamespace(cuda=None, hip=None)
cuda = types.SimpleNamespace(is_available=lambda: False)
ops = types.SimpleNamespace(torchvision=types.SimpleNamespace(), load_library=None)
get_num_threads = lambda: 1
from_numpy = id

class Library:
    def __init__(self, namespace, kind):
        assert (namespace, kind) == ("torchvision", "FRAGMENT")
    def define(self, schema):
        setattr(ops.torchvision, schema.split("(")[0], schema)

library = types.SimpleNamespace(Library=Library)
"""
TORCHVISION = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
__version__ = "0.28.0"
"""
FILES = {
    "torch/__init__.py": TORCH,
    "torchvision/__init__.py": TORCHVISION,
    "torchvision/transforms.py": "",
    "numpy.py": "zeros = id",
    "clip/__init__.py": "from .clip import *",
    "clip/clip.py": "from pkg_resources import packaging\nimport torchvision\nload = tokenize = id",
    "clip/simple_tokenizer.py": "",
}
DISTRIBUTIONS = {
    "torch": ("2.13.0+cpu", ""),
    "torchvision": ("0.28.0", "Requires-Dist: torch==2.13.0\n"),
    "numpy": ("2.4.6", ""),
    "clip-anytorch": ("2.6.0", ""),
    "setuptools": ("84.0.0", ""),
}


def write_packages(folder, **files):
    """Write the packages and their metadata; `files` (by module name) replace or add top-level modules."""
    added = {f"{name}.py": code for name, code in files.items()}
    kept = {path: code for path, code in FILES.items() if path.split("/")[0] not in files}
    for path, code in {**kept, **added}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)
    for name, (version, more) in DISTRIBUTIONS.items():
        metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")
