"""SubPT: CoOp in a subspace of gradients, and with the features of novel names beside those of the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.parity.foreign_cases import COOP, SMALL, ByHand, Case, Repository

_NOVEL = ["cat", "dog", "house"]
_RANK = 8


def _files(folder: Path, case: Case) -> None:
    generator = torch.Generator().manual_seed(3)
    size = COOP["TRAINER.COOP.N_CTX"] * SMALL["text_width"]
    basis = torch.linalg.qr(torch.randn(size, _RANK, generator=generator, dtype=torch.float64)).Q.T
    torch.save(basis.contiguous(), folder / "basis.pt")
    torch.save(_NOVEL, folder / "novel-names.pt")
    novel = torch.randn(len(_NOVEL), SMALL["embed_dim"], generator=generator, dtype=torch.float64)
    torch.save(novel, folder / "novel-text.pt")


def _options(folder: Path) -> dict[str, Any]:
    return {
        **COOP,
        "TRAINER.U": str(folder / "basis.pt"),
        "CLASSNAMES_NFL": str(folder / "novel-names.pt"),
        "TEXT_FEATURES_NFL": str(folder / "novel-text.pt"),
    }


_REPOSITORY = Repository(
    "CPT_RELEASED_SUBPT", folder="CoOp", dassl="Dassl.pytorch",
    lacks="a random basis, names and features of novel classes",
)  # fmt: skip
_FIRST: dict[str, Any] = {
    "hook": "features=lambda step: (step.text[0], step.image[0])",
    "by_hand": ByHand(features=lambda texts, images: (texts[0], images[0])),
}
CASES = (
    Case(_REPOSITORY, "CoOp_sub", "logits", _options, files=_files),
    Case(_REPOSITORY, "CoOp_nfl", "(logits, text of novel names)", _options, files=_files, **_FIRST),
    Case(_REPOSITORY, "CoOp_sub_nfl", "(logits, text of novel names)", _options, files=_files, **_FIRST),
)
