"""CAPT: one prompt without class names for each image, and a learned head in place of class texts."""

from __future__ import annotations

from tests.parity.foreign_cases import SMALL, Case, Repository

_OPTIONS = {"TRAINER.BASELINE.PREC": "fp32", "TRAINER.BASELINE.N_CTX": 4}
CASES = (
    Case(Repository("CPT_RELEASED_CAPT"), "Baseline", "loss", _OPTIONS, sizes={**SMALL, "embed_dim": 512},
         hook="features=lambda step: (torch.stack(step.text), step.image[0])", refused="6 classes"),
)  # fmt: skip
