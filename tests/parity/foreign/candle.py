"""Candle: images, prototypes and class texts attend to each other behind frozen encoders, all in one module."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tests.parity.foreign_cases import COOP, ByHand, Case, Repository


def _output(folder: Path, case: Case) -> None:
    (folder / "output").mkdir(exist_ok=True)


_TRAINED, _ALL = 3, 6
_LINE = (
    "text='proto_manager.head.fusion', image='clip_model.visual', frozen_text=frozen_text, "
    f"features=lambda step: (step.text[0][-{_ALL}:-{_ALL - _TRAINED}], step.text[0][:-{2 * _ALL}])"
)


def _features(fused: list[Tensor], none: list[Tensor]) -> tuple[Tensor, Tensor]:
    images, _, texts = fused[0].split((len(fused[0]) - 2 * _ALL, _ALL, _ALL))
    return texts[:_TRAINED], images


CASES = (
    Case(Repository("CPT_RELEASED_CANDLE"), "Candle", "three logits, of images and prototypes",
         {**COOP, "DATASET.SUBSAMPLE_CLASSES": "base"}, hook=_LINE, files=_output,
         by_hand=ByHand("proto_manager.head.fusion", "clip_model.visual", _features,
                        labels=lambda parsed: parsed[1][:-_ALL])),
)  # fmt: skip
