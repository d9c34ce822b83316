"""CoPrompt: two views of each image; adapters act on the features of both encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import ByHand, Case, Repository
from tests.runner.released import CLASSES


def _sentences(folder: Path, case: Case) -> None:
    (folder / "gpt_file").mkdir(exist_ok=True)
    sentences = {name: [f"{name} seen from a satellite.", f"An aerial view of {name}."] for name in CLASSES}
    (folder / "gpt_file" / "eurosat_prompt.json").write_text(json.dumps(sentences))


def _labels(parsed: Any) -> Tensor:
    _, _, labels = parsed
    return labels


_OPTIONS = {
    "TRAINER.CoPrompt.PREC": "fp32",
    "TRAINER.CoPrompt.PROMPT_DEPTH": 2,
    "DATALOADER.K_TRANSFORMS": 2,
}
CASES = (
    Case(Repository("CPT_RELEASED_COPROMPT"), "CoPrompt", "loss", _OPTIONS, by_hand=ByHand(labels=_labels),
         sizes={"text_width": 512, "vision_width": 768, "embed_dim": 512}, files=_sentences),
)  # fmt: skip
