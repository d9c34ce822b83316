"""TAC: prompts made of cluster centres; several views of every image, whose labels are repeated for the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import SMALL, ByHand, Case, Repository, both_sides
from tests.parity.foreign_stubs import stub
from tests.runner.released import CLASSES

_VIEWS = 2


def _first_rows(X: Tensor, num_clusters: int, **_: Any) -> tuple[None, Tensor]:
    return None, X[:num_clusters].clone()


def _stand_ins(code: Path) -> None:
    stub("kmeans_pytorch", kmeans=_first_rows)


def _descriptions(folder: Path, case: Case) -> None:
    (folder / "descriptions").mkdir(exist_ok=True)
    sentences = {name: [f"a photo of {name}.", f"{name} from above."] for name in CLASSES}
    (folder / "descriptions" / "eurosat_prompt.json").write_text(json.dumps(sentences))


_OPTIONS = {**both_sides("TAC"), "DATALOADER.K_TRANSFORMS": _VIEWS, "DATALOADER.RETURN_IMG0": True}
_REPOSITORY = Repository(
    "CPT_RELEASED_TAC", stand_ins=_stand_ins,
    lacks="`kmeans_pytorch` (the first five classes are the centres), descriptions of our classes",
)  # fmt: skip
CASES = (
    Case(_REPOSITORY, "TAC", "(logits, text, frozen text, frozen image, image)", _OPTIONS, files=_descriptions,
         sizes={**SMALL, "embed_dim": 64}, by_hand=ByHand(labels=lambda parsed: parsed[1].repeat(_VIEWS))),
)  # fmt: skip
