"""Data, command lines and log reading of the conformance cases."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import train
from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from tests.helpers.tiny_clip import random_state

NAMES = ("ant", "red_bee", "cat", "dog", "tall elk", "fox", "gnu")
SIDE, CLIP_SIDE = 20, 16
COUNTS = {"train": 10, "val": 5, "test": 6}
FEW = ("train", 4, 3)  # this class has fewer images than shots
TRAINERS = ("CoOp", "CoOpCPT", "MaPLe", "MaPLeCPT")
EPOCHS = 4
LINE = re.compile(
    r"^epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\] time [\d.]+ \([\d.]+\) data [\d.]+ \([\d.]+\) "
    r"((?:\w+ \S+ \(\S+\) )+)lr (\S+) eta \d+:\d\d:\d\d$"
)
RESULT = re.compile(
    r"^=> result\n\* total: ([\d,]+)\n\* correct: ([\d,]+)\n\* accuracy: ([\d.]+)%\n\* error: ([\d.]+)%\n"
    r"\* macro_f1: ([\d.]+)%$",
    re.MULTILINE,
)
CASES: dict[str, Callable[[Path], Any]] = {}


def case(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    CASES[function.__name__] = function
    return function


def write_data(folder: Path) -> None:
    """Noisy images of 7 classes, tiny CLIP weights and two configuration files."""
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        (folder / "images" / part).mkdir(parents=True)
        for label in range(len(NAMES)):
            for i in range(FEW[2] if (part, label) == FEW[:2] else count):
                noise = rng.integers(0, 200, (SIDE + label, SIDE + 3, 3))
                noise[:, :, label % 3] += 50
                Image.fromarray(noise.astype(np.uint8)).save(folder / "images" / part / f"{label}_{i}.png")
    sizes = {"text_width": 64, "vision_width": 64, "text_layers": 3, "vision_layers": 3, "embed_dim": 32}
    torch.save(random_state(**sizes, resolution=CLIP_SIDE, patch=8, seed=0), folder / "clip.pt")
    (folder / "data.yaml").write_text(
        "DATASET:\n  NAME: ConformanceImages\nINPUT:\n  SIZE: (16, 16)\n  INTERPOLATION: bicubic\n"
        "  TRANSFORMS: [random_resized_crop, random_flip, normalize]\n"
        f"MODEL:\n  BACKBONE:\n    NAME: {folder / 'clip.pt'}\nOPTIM:\n  LR: 0.5\nTRAIN:\n  PRINT_FREQ: 7\n"
        "TEST:\n  EVALUATOR: Classification\n"
    )
    (folder / "method.yaml").write_text(
        "DATALOADER:\n  NUM_WORKERS: 0\n  TRAIN_X:\n    BATCH_SIZE: 4\nOPTIM:\n  NAME: sgd\n  LR: 0.02\n"
        f"  MAX_EPOCH: {EPOCHS}\n  LR_SCHEDULER: cosine\n  WARMUP_EPOCH: 1\n  WARMUP_TYPE: constant\n"
        "TRAIN:\n  PRINT_FREQ: 1\n  CHECKPOINT_FREQ: 1\nTRAINER:\n  COOP:\n    N_CTX: 3\n  MAPLE:\n"
        "    PROMPT_DEPTH: 2\n    CTX_INIT: ''\nCPT:\n  CLUSTER_SIZE: 2\nUSE_CUDA: False\n"
    )


def image_lists(folder: Path) -> list[list[Any]]:
    """Items of train, val and test, shuffled, so that labels appear in no order."""
    parts = []
    for part in COUNTS:
        paths = sorted((folder / "images" / part).iterdir())
        random.Random(part).shuffle(paths)
        labels = [int(path.name.split("_")[0]) for path in paths]
        parts.append([
            toolkit.Datum(impath=str(path), label=label, classname=NAMES[label])
            for path, label in zip(paths, labels, strict=True)
        ])  # fmt: skip
    return parts


def register_data() -> None:
    """Register the images as a data set; imports the repository's ``datasets`` first."""
    default_cfg()
    from datasets._few_shot import few_shot

    @toolkit.DATASET_REGISTRY.register()
    class ConformanceImages(toolkit.DatasetBase):
        dataset_dir = "images"

        def __init__(self, cfg: Any) -> None:
            parts = few_shot(*image_lists(Path(cfg.DATASET.ROOT)), cfg)
            super().__init__(train_x=parts[0], val=parts[1], test=parts[2])


def arguments(folder: Path, trainer: str, output: Path, *words: Any) -> list[str]:
    """Command line of train.py; options and their values come last."""
    flags = [w for w in words if str(w).startswith("--")]
    cut = words.index(flags[-1]) + 2 if flags else 0
    return [
        *("--root", str(folder), "--seed", "1", "--trainer", trainer, "--output-dir", str(output)),
        *("--dataset-config-file", str(folder / "data.yaml"), "--config-file", str(folder / "method.yaml")),
        *map(str, words[:cut]), "DATASET.NUM_SHOTS", "8", *map(str, words[cut:]),
    ]  # fmt: skip


def command(folder: Path, trainer: str, output: Path, *words: Any) -> None:
    train.main(train.parser().parse_args(arguments(folder, trainer, output, *words)))


def config(folder: Path, *words: Any) -> Any:
    return train.setup_cfg(train.parser().parse_args(arguments(folder, "CoOp", folder / "unused", *words)))


def log_text(output: Path) -> str:
    """All log files of an output folder, oldest first."""
    return "".join(path.read_text() for path in sorted(output.glob("log.txt*"), key=lambda p: p.stat().st_mtime))


def results(text: str) -> list[list[str]]:
    return [list(match.groups()) for match in RESULT.finditer(text)]


def train_lines(text: str) -> list[dict[str, Any]]:
    """Epoch, batch, named quantities and learning rate of every training line."""
    lines = []
    for line in text.splitlines():
        if match := LINE.match(line):
            epoch, epochs, batch, count, quantities, rate = match.groups()
            words = quantities.split()
            lines.append({
                "position": [int(epoch), int(epochs), int(batch), int(count)],
                "names": words[::3], "finite": all(np.isfinite(float(w)) for w in words[1::3]), "lr": rate,
            })  # fmt: skip
        elif line.startswith("epoch ["):
            lines.append({"unreadable": line})
    return lines


def rows(items: Sequence[Any]) -> list[list[Any]]:
    return [[Path(item.impath).name, item.label, item.classname, item.domain] for item in items]


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
