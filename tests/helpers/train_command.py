"""Calls of ``train.py`` on small data with a tiny random CLIP, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train as command
from tests.helpers.prompt_runs import RESOLUTION, weights

ROOT = Path(__file__).resolve().parents[2]


def train_words(
    yaml: Path, root: Path, output: Path, trainer: str, *opts: str, learner: str = "CoOp", flags: Sequence[str] = ()
) -> list[str]:
    """A command line of one epoch on the data set of ``yaml``."""
    return [
        "--root", str(root), "--output-dir", str(output), "--trainer", trainer, "--backbone", str(weights(root)),
        "--dataset-config-file", str(yaml), "--seed", "1",
        "--config-file", str(ROOT / "configs" / "trainers" / learner / "micro.yaml"), *flags,
        "INPUT.SIZE", f"({RESOLUTION}, {RESOLUTION})", "INPUT.TRANSFORMS", "('random_flip', 'normalize')",
        "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "OPTIM.MAX_EPOCH", "1", "CPT.CLUSTER_SIZE", "3", "USE_CUDA", "False",
        *opts,
    ]  # fmt: skip


def train_log(*args: Any, **options: Any) -> str:
    """The log of the command with these words, which must end well."""
    words = train_words(*args, **options)
    command.main(command.parser().parse_args(words))
    return Path(words[words.index("--output-dir") + 1], "log.txt").read_text()


def dataset_yaml(name: str) -> Path:
    """The yaml of a data set of this repository."""
    return ROOT / "configs" / "datasets" / f"{name}.yaml"
