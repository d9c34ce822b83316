"""Modular prompt learning: MaPLe with prompts that are added and removed between the layers."""

from __future__ import annotations

from tests.parity.foreign_cases import MAPLE, Case, Repository

_OPTIONS = {"TRAINER.MPL.PREC": "fp32", "TRAINER.MPL.PROMPT_DEPTH": 2, "DATASET.SUBSAMPLE_CLASSES": "base"}
CASES = (Case(Repository("CPT_RELEASED_MPL"), "MPL", "loss", _OPTIONS, sizes=MAPLE),)
