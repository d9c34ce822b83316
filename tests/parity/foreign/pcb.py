"""PCB: CoOp in rounds of active learning; the model is built when a training begins."""

from __future__ import annotations

from tests.parity.foreign_cases import COOP, Case, Repository

_REPOSITORY = Repository("CPT_RELEASED_PCB", dassl=".")
CASES = (
    Case(_REPOSITORY, "ALVLM", "logits", {**COOP, "TRAINER.COOPAL.METHOD": "random"},
         refused="no torch module `model`"),
)  # fmt: skip
