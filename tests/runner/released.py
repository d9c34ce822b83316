"""A released repository run in a subprocess on a tiny random CLIP and a few images in EuroSAT's layout.

Nothing of the repository is changed: its CLIP finds the tiny weights because a ``sitecustomize`` replaces the
download; it also lets ``.cuda()`` do nothing where there is no GPU, and notes what the training loaders hold. The runs
write into folders of the test.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.helpers.tiny_clip import random_state

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("AnnualCrop", "Forest", "Highway", "Pasture", "River", "SeaLake")
PER_CLASS = {"train": 8, "val": 2, "test": 3}
RESOLUTION = 32
WIDTH = 32

_SITECUSTOMIZE = """\
import importlib.util, json, os, sys

class Outside:
    def find_spec(self, name, path=None, target=None):
        change = CHANGES.get(name)
        if change is None:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None:
            return None
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec

def change_clip(module):
    module._download = lambda url, root=None: load(url)
    without_cuda()

def change_loaders(module):
    build = module.build_data_loader
    def build_data_loader(*args, **more):
        loader = build(*args, **more)
        if more["is_train"]:
            labels = [item.label for item in loader.dataset.data_source]
            with open(os.environ["TINY_LOADERS"], "a") as log:
                log.write(json.dumps([labels.count(label) for label in range(max(labels) + 1)]) + "\\n")
        return loader
    module.build_data_loader = build_data_loader

def load(url):
    with open(os.environ["TINY_LOADS"], "a") as log:
        places = {name: place_of(sys.modules.get(name)) for name in ("clip", "datasets", "trainers")}
        log.write(json.dumps(places) + "\\n")
    return os.environ["TINY_CLIP"]

def place_of(module):
    return module and (module.__file__ or list(module.__path__)[0])

def without_cuda():
    import torch
    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **more: self

CHANGES = {
    "clip.clip": change_clip, "trainers.clip_text.clip": change_clip, "dassl.data.data_manager": change_loaders
}
sys.meta_path.insert(0, Outside())
"""

_PLAIN = """\
import runpy, sys
from cpt_plugin.toolkit import compat
compat.prepare_dassl()
import dassl.engine
compat.repair_dassl()
sys.argv = sys.argv[1:]
sys.path[0] = "."
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Released:
    """A released repository, Dassl, and a folder with data and weights for it."""

    repository: Path
    dassl: Path
    folder: Path

    def run(self, *words: str, plain: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """``python -m cpt_plugin WORDS`` in the repository, or WORDS on the repaired Dassl without the runner."""
        command = [str(self.folder / "plain.py")] if plain else ["-m", "cpt_plugin"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [self.folder / "site", self.dassl, ROOT])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "TINY_CLIP": str(self.folder / "tiny.pt"),
            "TINY_LOADS": str(self.folder / "loads.txt"),
            "TINY_LOADERS": str(self.folder / "loaders.txt"),
            **variables,
        }
        environment.pop("CPT_TOOLKIT", None)
        if plain:
            environment["CPT_TOOLKIT"] = "embedded"
        return subprocess.run(
            [sys.executable, *command, *words], cwd=self.repository, env=environment, capture_output=True, text=True,
            timeout=280,
        )  # fmt: skip

    def loads(self) -> list[dict[str, str | None]]:
        """For each time that CLIP was loaded since the last call: the files of the packages that collide."""
        return self._noted("loads.txt")

    def training_sets(self) -> list[list[int]]:
        """For each training loader that was built since the last call: the images of each class, by label."""
        return self._noted("loaders.txt")

    def _noted(self, name: str) -> list[Any]:
        log = self.folder / name
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def prompts(self, output: Path, epoch: int = 2, name: str = "prompt_learner") -> dict[str, torch.Tensor]:
        """Trained tensors of a run, by name."""
        saved = torch.load(output / name / f"model.pth.tar-{epoch}", weights_only=True)
        return saved["state_dict"]

    def tree_hash(self) -> str:
        """SHA-256 over all paths and contents of the repository and of Dassl, except compiled Python."""
        digest = hashlib.sha256()
        for top in (self.repository, self.dassl):
            for path in sorted(top.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    digest.update(f"{path}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def prepare(folder: Path, **per_class: int) -> None:
    """Write data, weights and the two helper scripts into ``folder``; ``per_class`` images as PER_CLASS, or other."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    (folder / "plain.py").write_text(_PLAIN)
    _write_images(folder / "data" / "eurosat", {**PER_CLASS, **per_class})
    write_weights(folder / "tiny.pt", text_width=64, vision_width=64, embed_dim=WIDTH)


def write_weights(path: Path, **sizes: int) -> None:
    """A tiny random CLIP with a ViT of 32 x 32 pixels, two blocks in either tower unless ``sizes`` say otherwise."""
    blocks = {"text_layers": 2, "vision_layers": 2}
    state = random_state(**{**blocks, **sizes}, resolution=RESOLUTION, patch=16, seed=0)
    torch.save(state, path)


def frozen_text(path: Path, width: int = WIDTH) -> Path:
    """Made-up frozen text features in a file."""
    torch.save(torch.randn(len(CLASSES), width, generator=torch.Generator().manual_seed(5)), path)
    return path


def events(output: Path) -> dict[str, list[float]]:
    """Scalars of the TensorBoard files of a run, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(output / "tensorboard"))
    reader.Reload()
    return {tag: [event.value for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def _write_images(folder: Path, per_class: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    split: dict[str, Any] = {}
    for part, count in per_class.items():
        split[part] = []
        for label, name in enumerate(CLASSES):
            for index in range(count):
                path = Path(name) / f"{part}{index}.png"
                (folder / "2750" / name).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 80, (RESOLUTION, RESOLUTION, 3)) + 25 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "2750" / path)
                split[part].append([str(path), label, name])
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
