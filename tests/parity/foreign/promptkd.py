"""PromptKD: a student with visual prompts; its text features are those of a teacher."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.parity.foreign_cases import SMALL, Case, Repository, both_sides
from tests.parity.foreign_weights import write_weights


def _teacher(folder: Path, case: Case) -> None:
    (folder / "clip").mkdir(exist_ok=True)
    write_weights(folder / "clip" / "ViT-B-16.pt", case)
    write_weights(folder / "clip" / "ViT-L-14.pt", case, embed_dim=768)
    teacher = folder / "teacher_model" / "EuroSAT" / "VLPromptLearner" / "model-best.pth.tar"
    teacher.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "epoch": 1, "val_result": 0.0}, teacher)


CASES = (
    Case(Repository("CPT_RELEASED_PROMPTKD"), "PromptKD", "(image, scale)",
         {**both_sides("PROMPTKD"), "TRAINER.PROMPTKD.TEACHER_NAME": "ViT-L/14"},
         sizes={**SMALL, "embed_dim": 512}, files=_teacher, refused="no module `text_encoder`"),
)  # fmt: skip
