"""MaPLe: prompts in both towers, coupled, independent, or in the visual one only."""

from __future__ import annotations

from tests.parity.foreign_cases import DEEP, MAPLE, Case, Repository, both_sides

_REPOSITORY = Repository("CPT_RELEASED_MAPLE")
_VPT = {"TRAINER.VPT.PREC": "fp32", "TRAINER.VPT.N_CTX_VISION": 2, "TRAINER.VPT.PROMPT_DEPTH_VISION": 2}
CASES = (
    Case(_REPOSITORY, "MaPLe", "loss", DEEP, sizes=MAPLE, whole=True),
    Case(_REPOSITORY, "IVLP", "loss", both_sides("IVLP")),
    Case(_REPOSITORY, "VPT", "loss", _VPT, refused="methods without learned text prompts, such as VPT"),
)
