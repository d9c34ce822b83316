"""DeKg, alone and on TCP."""

from __future__ import annotations

from pathlib import Path

from tests.parity.foreign_cases import COOP, SMALL, Case, Repository
from tests.parity.foreign_stubs import stub


def _stand_ins(code: Path) -> None:
    stub("thop", profile=lambda model, inputs: (0, 0))


_REPOSITORY = Repository(
    "CPT_RELEASED_DEKG", clips=("clip", "trainers.clip_text"), stand_ins=_stand_ins,
    lacks="`thop` (counts operations in every step; not needed)",
)  # fmt: skip
_OPTIONS = {**COOP, "TRAINER.COCOOP.PREC": "fp32", "DATASET.SUBSAMPLE_CLASSES": "base"}
_DEEP = {"text_width": 512, "text_layers": 9, "vision_width": 64, "embed_dim": 64}
"""Its class-aware prompts enter before the ninth block."""
CASES = (
    Case(_REPOSITORY, "DeKg", "(logits, score, score)", _OPTIONS, sizes={**SMALL, "embed_dim": 64}),
    Case(_REPOSITORY, "DeKg_TCP", "(logits, loss)", _OPTIONS,
         sizes=_DEEP),
)  # fmt: skip
