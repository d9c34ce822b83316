"""TaskRes: no text encoder in the model; a module adds a residual to the frozen text features."""

from __future__ import annotations

from tests.parity.foreign_cases import ByHand, Case, Repository

_REPOSITORY = Repository("CPT_RELEASED_TASKRES", arguments={"enhanced_base": "none"})
CASES = (
    Case(_REPOSITORY, "TaskRes", "logits", {"TRAINER.TaskRes.PREC": "fp32"},
         hook='text="prompt_learner", frozen_text=frozen_text', by_hand=ByHand(text="prompt_learner")),
)  # fmt: skip
