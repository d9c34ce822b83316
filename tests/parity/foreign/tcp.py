"""TCP: class-aware prompts; its model returns logits and the loss, of which only the loss is back-propagated."""

from __future__ import annotations

from tests.parity.foreign_cases import COOP, Case, Repository

_OPTIONS = {**COOP, "TRAINER.COCOOP.PREC": "fp32", "DATASET.SUBSAMPLE_CLASSES": "base"}
_REPOSITORY = Repository("CPT_RELEASED_TCP", clips=("clip", "trainers.clip_text"))
_DEEP = {"text_width": 512, "text_layers": 9, "vision_width": 64, "embed_dim": 64}
"""Its class-aware prompts enter before the ninth block."""
CASES = (
    Case(_REPOSITORY, "TCP", "(logits, loss)", _OPTIONS,
         sizes=_DEEP),
)  # fmt: skip
