"""DePT: a linear probe beside CoOp and MaPLe."""

from __future__ import annotations

from pathlib import Path

from tests.parity.foreign_cases import COOP, DEEP, MAPLE, Case, Repository
from tests.parity.foreign_stubs import stub

_OPTIONS = {"DATASET.SUBSAMPLE_CLASSES": "base", "OPTIM.LR_EXP": 2.0}


def _stand_ins(code: Path) -> None:
    stub("plotnine")


_REPOSITORY = Repository(
    "CPT_RELEASED_DEPT", clips=("clip", "clip_maple"), stand_ins=_stand_ins, lacks="`plotnine` (not needed)"
)
CASES = (
    Case(_REPOSITORY, "ExtrasLinearProbeCoOp", "loss", {**COOP, **_OPTIONS}),
    Case(_REPOSITORY, "ExtrasLinearProbeMaPLe", "loss", {**DEEP, **_OPTIONS}, sizes=MAPLE),
)
