"""DAPT: prototypes are made by a first run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parity.foreign_cases import Case, Repository


def _prototypes(build: Callable[..., Any], folder: Path) -> None:
    build(**{"TRAINER.DAPT.PROTOTYPE_GEN": True})


_OPTIONS = {"TRAINER.DAPT.VIS_NUM_TOKENS": 3, "TRAINER.DAPT.TXT_NUM_TOKENS": 3}
CASES = (Case(Repository("CPT_RELEASED_DAPT"), "DAPT", "(logits, image, text)", _OPTIONS, before=_prototypes),)
