"""Candle: prototypes and projections behind frozen encoders."""

from __future__ import annotations

from pathlib import Path

from tests.parity.foreign_cases import COOP, Case, Repository


def _output(folder: Path, case: Case) -> None:
    (folder / "output").mkdir(exist_ok=True)


CASES = (
    Case(Repository("CPT_RELEASED_CANDLE"), "Candle", "three logits, of images and prototypes", COOP, files=_output,
         refused="no module `text_encoder`"),
)  # fmt: skip
