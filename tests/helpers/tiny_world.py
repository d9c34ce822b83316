"""A drawn data set with base and new classes of different number, and experiments on it with a tiny CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpt_plugin import toolkit
from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.methods import parse_method
from tests.helpers.prompt_runs import RESOLUTION, weights

NAMES = ("apple", "red barn", "cat", "dog", "eagle", "fish", "green goat")
BASE, NEW = NAMES[:4], NAMES[4:]
SHOTS = 12
TEST_IMAGES = 4
COUNTS = [12, 5, 2, 1]
"""Training images of the base classes at tau 0.1: floor(12 * 0.1^(rank / 3))."""


@toolkit.DATASET_REGISTRY.register()
class TinyWorld(toolkit.DatasetBase):
    """Seven classes, four of them base."""

    dataset_dir = "tiny_world"

    def __init__(self, cfg: Any) -> None:
        folder = Path(cfg.DATASET.ROOT) / self.dataset_dir
        parts = [
            [
                toolkit.Datum(str(path), label, classname=name)
                for label, name in enumerate(NAMES)
                for path in sorted((folder / part).glob(f"{label}_*.png"))
            ]
            for part in ("train", "val", "test")
        ]
        parts = toolkit.subsample_classes(*parts, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=parts[0], val=parts[1], test=parts[2])


def write_world(root: Path) -> Path:
    """Draw the images below ``root``; returns it."""
    rng = np.random.default_rng(0)
    for part, count in (("train", SHOTS), ("val", 2), ("test", TEST_IMAGES)):
        folder = root / TinyWorld.dataset_dir / part
        folder.mkdir(parents=True)
        for label in range(len(NAMES)):
            for i in range(count):
                pixels = rng.integers(0, 120, (RESOLUTION, RESOLUTION, 3))
                pixels[label * 2 : label * 2 + 4, :, label % 3] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{label}_{i:02}.png")
    weights(root)
    return root


def tiny_arguments(root: Path, output: Path, method: str, *opts: str, tau: float = 0.1) -> RunArguments:
    """What a command of two epochs asks for, a state saved after every step."""
    options = {
        "DATASET.NAME": "TinyWorld",
        "INPUT.SIZE": f"({RESOLUTION}, {RESOLUTION})",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "8",
        "DATALOADER.NUM_WORKERS": "0",
        "OPTIM.LR": "0.02",
        "TRAIN.CHECKPOINT_SECONDS": "0.0",
        "CPT.CLUSTER_SIZE": "2",
        "USE_CUDA": "False",
    }
    learner = parse_method(method).prompt_learner
    if learner == "maple":
        options["TRAINER.MAPLE.PROMPT_DEPTH"] = "2"
    if learner in ("ivlp", "promptsrc"):
        options |= {f"TRAINER.{learner.upper()}.PROMPT_DEPTH_{tower}": "2" for tower in ("TEXT", "VISION")}
    pairs = [word for pair in options.items() for word in pair]
    return RunArguments(
        method=parse_method(method),
        dataset="shapes",
        tau=tau,
        seeds=(1,),
        shots=SHOTS,
        backbone=str(weights(root)),
        root=root,
        output=output,
        epochs=2,
        baseline=True,
        opts=(*pairs, *opts),
    )


def tiny_experiment(root: Path, output: Path, method: str, *opts: str, **changes: Any) -> Experiment:
    """One run of ``method`` on the base and new classes of :class:`TinyWorld` with seed 1."""
    return Experiment(parse_method(method), 1, tiny_arguments(root, output, method, *opts, **changes))
