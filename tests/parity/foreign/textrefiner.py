"""TextRefiner: a memory of local image features refines the text features outside the model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.parity.foreign_cases import COOP, ByHand, Case, Repository

_FLAGS = {"memory_size": 25, "alpha": 0.2, "loss_factor": 1.0, "balance_factor": 1.0, "distill_factor": 1.0}


class _CommandLine(SimpleNamespace):
    """Flags; those that are not given are None."""

    def __getattr__(self, name: str) -> None:
        return None


def _stand_ins(code: Path) -> None:
    train = import_module("train")
    extend = train.extend_cfg

    def extend_cfg(cfg: Any) -> None:
        extend(cfg)
        train.reset_cfg(cfg, _CommandLine(**_FLAGS))

    train.extend_cfg = extend_cfg


_REPOSITORY = Repository(
    "CPT_RELEASED_TEXTREFINER", stand_ins=_stand_ins, lacks="its command line, from which alone it takes its settings"
)
_OPTIONS = {**COOP, "DATASET.SUBSAMPLE_CLASSES": "base"}
CASES = (
    Case(_REPOSITORY, "TextRefiner", "(text, image, scale, local, best local)", _OPTIONS, resolution=64,
         sizes={"text_width": 512, "vision_width": 512, "embed_dim": 512, "text_layers": 1},
         hook="features=lambda step: (step.text[0], step.image[0][0])",
         by_hand=ByHand(features=lambda texts, images: (texts[0], images[0][0]))),
)  # fmt: skip
