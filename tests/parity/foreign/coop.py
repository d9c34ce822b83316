"""CoOp: CoOp, CoCoOp and plain CLIP."""

from __future__ import annotations

from tests.parity.foreign_cases import COCOOP, COOP, Case, Repository

_REPOSITORY = Repository("CPT_RELEASED_COOP")
CASES = (
    Case(_REPOSITORY, "CoOp", "logits", COOP, whole=True),
    Case(_REPOSITORY, "CoCoOp", "loss; text features of each image", COCOOP),
    Case(_REPOSITORY, "ZeroshotCLIP", "logits, no training", {}, refused="no torch module `model`"),
)
