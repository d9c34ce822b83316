"""What is measured, and what it is to reach."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpt_plugin.encoders.tokens import bpe
from cpt_plugin.errors import ConfigError

FULL = {
    "text_width": 512, "text_layers": 12, "vision_width": 768, "vision_layers": 12, "embed_dim": 512,
    "resolution": 224, "patch": 16, "seed": 0,
}  # fmt: skip
QUICK = {**FULL, "text_layers": 9, "vision_layers": 9, "patch": 112}


@dataclass(frozen=True)
class Case:
    """One measurement: a job on K classes.

    Attributes:
        job: key of :data:`JOBS`.
        classes: K.
        batch: images a step, or a batch of the test set.
        batches: batches of a test set that one run evaluates; 1 for training steps.
        quick: tiny weights instead of ViT-B/16's shape, to try the benchmark itself.
    """

    job: str
    classes: int
    batch: int
    batches: int = 1
    quick: bool = False

    @property
    def key(self) -> str:
        return f"{self.job}-{self.classes}"

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments of the random CLIP."""
        return QUICK if self.quick else FULL

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """A trainer, its options, and the environment variable that names its released code, if there is any.

    ``in_memory`` is the largest K at which the released step fits in 16 GiB beside ours.
    """

    title: str
    trainer: str
    node: str
    options: dict[str, Any]
    variable: str
    batch: int
    batches: int = 1
    in_memory: int = 500


COOP = {"N_CTX": 4, "CSC": False, "CTX_INIT": "a photo of a", "CLASS_TOKEN_POSITION": "end"}
MAPLE = {"N_CTX": 2, "CTX_INIT": "a photo of a", "PROMPT_DEPTH": 9}
JOBS = {
    "coop": Job("CoOp step, batch 32", "CoOp", "COOP", COOP, "CPT_RELEASED_COOP", 32),
    "cached": Job("CoOp step, image features given", "CoOp", "COOP", COOP, "CPT_RELEASED_COOP", 32),
    "maple": Job("MaPLe step, batch 4", "MaPLe", "MAPLE", MAPLE, "CPT_RELEASED_MAPLE", 4),
    "dpc": Job(
        "DPC on CoOp, second stage, batch 4, top 8", "CoOpDPC", "COOP", {**COOP, "CTX_INIT": ""},
        "CPT_RELEASED_DPC", 4, in_memory=250,
    ),
    "evaluation": Job(
        "CoOp, test set of 2 batches of 100", "CoOp", "COOP", COOP, "CPT_RELEASED_COOP", 100, 2, 1000
    ),
    "main": Job("`maple_cpt shapes 0.25`, whole training", "MaPLeCPT", "MAPLE", {}, "", 4),
}  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """Least ratio released / ours, and the bold one."""

    job: str
    classes: int
    least: float
    bold: float


GOALS = (
    Goal("coop", 5, 1.0, 1.0), Goal("coop", 51, 1.0, 1.8), Goal("coop", 500, 5, 6), Goal("coop", 1000, 8, 9.5),
    Goal("cached", 500, 18, 22),
    Goal("maple", 5, 1.0, 1.0), Goal("maple", 51, 1.0, 3.3), Goal("maple", 500, 8, 12), Goal("maple", 1000, 11, 15),
    Goal("dpc", 500, 8, 12), Goal("evaluation", 500, 2, 2.2), Goal("evaluation", 1000, 2.8, 3.3),
)  # fmt: skip


def class_names(number: int) -> list[str]:
    """Distinct names of one-token words with the token lengths of ImageNet's class names, from the first on.

    Raises:
        ConfigError: more than 1000.
    """
    lengths = json.loads(Path(__file__).with_name("imagenet_lengths.json").read_text())
    if not 1 <= number <= len(lengths):
        raise ConfigError(f"{number} classes asked for: the lengths of {len(lengths)} ImageNet names are known")
    known = (token.removesuffix("</w>") for token in bpe().encoder if token.endswith("</w>"))
    words = [word for word in known if word.isascii() and word.isalpha() and len(word) > 3][: len(lengths)]
    return [" ".join(words[(i + j) % len(words)] for j in range(lengths[i])) for i in range(number)]
