"""The embedded main job, ``maple_cpt shapes 0.25``: its whole training through the engine's own loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import train as command
from benchmarks.compare import ROOT
from cpt_plugin import toolkit

WORDS = (
    "--seed", "1", "--trainer", "MaPLeCPT", "--backbone", "micro",
    "--dataset-config-file", str(ROOT / "configs" / "datasets" / "shapes.yaml"),
    "--config-file", str(ROOT / "configs" / "trainers" / "MaPLe" / "micro.yaml"),
)  # fmt: skip
OPTIONS = (
    "DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", "base", "DATASET.IMBALANCE_TAU", "0.25",
    "TEST.NO_TEST", "True", "VERBOSE", "False",
)  # fmt: skip


def build(folder: Path, side: str, quick: bool) -> Callable[[], None]:
    """A training from building the trainer to its last checkpoint, without the tests after it; images are drawn now.

    Quick: one epoch over one image a class.
    """
    count = 0

    def trainer() -> toolkit.TrainerX:
        nonlocal count
        count += 1
        places = ("--root", str(folder / "data"), "--output-dir", str(folder / f"{side}{count}"))
        short = ("OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "1", "DATASET.IMBALANCE_TAU", "1") if quick else ()
        args = command.parser().parse_args([*WORDS, *places, *OPTIONS, *short])
        cfg = command.setup_cfg(args)
        command.check(args, cfg)
        toolkit.set_random_seed(cfg.SEED)
        built = toolkit.build_trainer(cfg)
        if side == "reference":
            built.model.text_encoder.path = "reference"
        return built

    trainer()
    return lambda: trainer().train()
