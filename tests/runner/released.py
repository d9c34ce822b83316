"""A released repository run in a subprocess on a tiny random CLIP and a few images in EuroSAT's layout.

Nothing of the repository is changed: its CLIP finds the tiny weights because a ``sitecustomize`` replaces the
download, and the runs write into folders of the test.
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

class TinyWeights:
    def find_spec(self, name, path=None, target=None):
        if name != "clip.clip":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            module._download = lambda url, root=None: load(url)
        spec.loader.exec_module = exec_module
        return spec

def load(url):
    with open(os.environ["TINY_LOADS"], "a") as log:
        places = {name: getattr(sys.modules.get(name), "__file__", None) for name in ("clip", "datasets", "trainers")}
        log.write(json.dumps(places) + "\\n")
    return os.environ["TINY_CLIP"]

sys.meta_path.insert(0, TinyWeights())
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
        log = self.folder / "loads.txt"
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


def prepare(folder: Path) -> None:
    """Write data, weights and the two helper scripts into ``folder``."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    (folder / "plain.py").write_text(_PLAIN)
    _write_images(folder / "data" / "eurosat")
    write_weights(folder / "tiny.pt", text_width=64, vision_width=64, embed_dim=WIDTH)


def write_weights(path: Path, **sizes: int) -> None:
    """A tiny random CLIP with a ViT of 32 x 32 pixels, two blocks in either tower."""
    state = random_state(text_layers=2, vision_layers=2, resolution=RESOLUTION, patch=16, seed=0, **sizes)
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


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    split: dict[str, Any] = {}
    for part, count in PER_CLASS.items():
        split[part] = []
        for label, name in enumerate(CLASSES):
            for index in range(count):
                path = Path(name) / f"{part}{index}.png"
                (folder / "2750" / name).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 80, (RESOLUTION, RESOLUTION, 3)) + 25 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "2750" / path)
                split[part].append([str(path), label, name])
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
