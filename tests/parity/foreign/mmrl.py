"""MMRL and MMRL++: representation tokens in both towers; the image encoder returns two kinds of features."""

from __future__ import annotations

from tests.parity.foreign_cases import ByHand, Case, Repository

_REPOSITORY = Repository("CPT_RELEASED_MMRL")
CASES = tuple(
    Case(_REPOSITORY, name, "(three logits, image, text)",
         {f"TRAINER.{name}.PREC": "fp32", f"TRAINER.{name}.REP_LAYERS": [1, 2]},
         hook="features=lambda step: (step.text[0], step.image[0][0])",
         by_hand=ByHand(features=lambda texts, images: (texts[0], images[0][0])))
    for name in ("MMRL", "MMRLpp")
)  # fmt: skip
