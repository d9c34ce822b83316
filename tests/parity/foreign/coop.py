"""CoOp: CoOp, CoCoOp and plain CLIP."""

from __future__ import annotations

from tests.parity.foreign_cases import COCOOP, COOP, LOSS_SCALE, ByHand, Case, Repository

_REPOSITORY = Repository("CPT_RELEASED_COOP")
_SCALED = ByHand(multiplier=LOSS_SCALE)
CASES = (
    Case(_REPOSITORY, "CoOp", "logits", COOP, whole=True),
    Case(_REPOSITORY, "CoCoOp", "loss; text features of each image", COCOOP),
    Case(_REPOSITORY, "CoOp", "logits", {**COOP, "TRAINER.COOP.PREC": "amp"}, by_hand=_SCALED, variant="loss scaled"),
    Case(_REPOSITORY, "CoCoOp", "loss; text features of each image", {**COCOOP, "TRAINER.COCOOP.PREC": "amp"},
         by_hand=_SCALED, variant="loss scaled"),
    Case(_REPOSITORY, "ZeroshotCLIP", "logits, no training", {}, refused="no torch module `model`"),
)  # fmt: skip
