"""KgCoOp, and ProGrad as its repository has it."""

from __future__ import annotations

from tests.parity.foreign_cases import COOP, SMALL, ByHand, Case, Repository

_OPTIONS = {**COOP, "TRAINER.COCOOP.PREC": "fp32", "TRAINER.COOP.W": 8.0}
CASES = (
    Case(Repository("CPT_RELEASED_KGCOOP", folder="KgCoOp"), "KgCoOp", "(logits, score)", _OPTIONS,
         sizes={**SMALL, "embed_dim": 512}),
    Case(Repository("CPT_RELEASED_KGCOOP", folder="KgCoOp", dassl="Dassl.ProGrad.pytorch"),
         "ProGrad", "logits", {**COOP, "LOSS.NAME": "prograd"}, hook='backward="second"', by_hand=ByHand(backward=1)),
)  # fmt: skip
