"""LoCoOp: its image encoder gives a vector of the image and one of each place; only ImageNet can be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import LOSS_SCALE, ByHand, Case, Repository
from tests.runner.released import CLASSES


def _imagenet(folder: Path, case: Case) -> None:
    target = folder / "data" / "imagenet"
    if target.exists():
        return
    for part in ("train", "val"):
        shutil.copytree(folder / "data" / "eurosat" / "2750", target / "images" / part)
    (target / "classnames.txt").write_text("".join(f"{name} {name}\n" for name in CLASSES))


def _global(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    (text,), ((image, _),) = texts, images
    return text, image


_REPOSITORY = Repository(
    "CPT_RELEASED_LOCOOP", clips=("clip_w_local",), arguments={"lambda_value": 0.25, "topk": 2}
)
_OPTIONS = {"TRAINER.LOCOOP.PREC": "fp32", "TRAINER.LOCOOP.N_CTX": 4, "DATASET.NAME": "ImageNet"}
_COMMON: dict[str, Any] = {
    "returns": "(logits, logits of places)",
    "hook": "features=lambda step: (step.text[0], step.image[0][0])",
    "files": _imagenet,
    "template": "a photo of a {}.",
}
CASES = (
    Case(_REPOSITORY, "LoCoOp", options=_OPTIONS, by_hand=ByHand(features=_global), **_COMMON),
    Case(_REPOSITORY, "LoCoOp", options={**_OPTIONS, "TRAINER.LOCOOP.PREC": "amp"},
         by_hand=ByHand(features=_global, multiplier=LOSS_SCALE), variant="loss scaled", **_COMMON),
)  # fmt: skip
