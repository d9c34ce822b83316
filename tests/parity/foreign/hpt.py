"""HPT: hierarchical prompts from descriptions and their structure, one of several drawn for each class and step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parity.foreign_cases import SMALL, Case, Repository
from tests.runner.released import CLASSES

_DESCRIPTIONS = 5


def _structure(name: str, index: int) -> dict[str, Any]:
    colour = ("green", "grey", "brown", "blue", "white")[index]
    return {
        "Entities": [name, "fields"],
        "Attributes": [colour, "old"],
        "Entity-to-Entity Relationships": [{"entity1": name, "relationship": "has", "entity2": "fields"}],
        "Entity-to-Attribute Relationships": [{"entity": "fields", "relationship": "are", "attribute": colour}],
    }


def _files(folder: Path, case: Case) -> None:
    for kind, of in (("description", lambda name, i: f"{name} number {i}."), ("structure", _structure)):
        (folder / "gpt" / kind).mkdir(parents=True, exist_ok=True)
        content = {name: [of(name, i) for i in range(_DESCRIPTIONS)] for name in CLASSES}
        (folder / "gpt" / kind / "EuroSAT.json").write_text(json.dumps(content))


def _options(folder: Path) -> dict[str, Any]:
    return {"TRAINER.HPT.PREC": "fp32", "DATASET.GPT_DIR": str(folder / "gpt")}


CASES = (
    Case(Repository("CPT_RELEASED_HPT", lacks="descriptions of our classes"), "HPT", "three logits", _options,
         files=_files, sizes={**SMALL, "embed_dim": 64}),
)  # fmt: skip
