"""ProGrad: two backward passes a step; of the first only a direction is kept."""

from __future__ import annotations

from tests.parity.foreign_cases import COOP, ByHand, Case, Repository

_REPOSITORY = Repository("CPT_RELEASED_PROGRAD", folder="ProGrad.public", dassl="Dassl.ProGrad.pytorch")
CASES = (
    Case(_REPOSITORY, "ProGrad", "logits", {**COOP, "LOSS.NAME": "prograd"}, hook='backward="second"',
         by_hand=ByHand(backward=1)),
)  # fmt: skip
