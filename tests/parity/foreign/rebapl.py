"""ReBaPL: chains of sampled prompts on CoCoOp and MaPLe; prompts drawn from a learned distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.foreign_cases import COCOOP, DEEP, MAPLE, ByHand, Case, Repository
from tests.parity.foreign_stubs import stub
from tests.runner.released import CLASSES


def _mean_of_draws(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    """The mean over the prompts that were drawn, of which each has all classes."""
    (text,), (image,) = texts, images
    return sum(text.split(len(CLASSES))) / (len(text) // len(CLASSES)), image


def _stand_ins(code: Path) -> None:
    stub("ot")


_REPOSITORY = Repository("CPT_RELEASED_REBAPL", stand_ins=_stand_ins, lacks="`ot` (a distance that is not used here)")
_CHAINS = {"CSGHMC.CYCLE_LENGTH": 2}
CASES = (
    Case(_REPOSITORY, "CSGHMC_CR", "loss; text features of each image",
         {**COCOOP, **_CHAINS, "TRAINER.MAPLE.PREC": "fp32"}),
    Case(_REPOSITORY, "CSGHMC_CR_MAPLE", "loss", {**DEEP, **_CHAINS}, sizes=MAPLE),
    Case(_REPOSITORY, "VPT", "loss", {"TRAINER.VPT.PREC": "fp32", "TRAINER.VPT.N_CTX": 4, "TRAINER.VPT.L": 3,
                                   "DATALOADER.TRAIN_X.BATCH_SIZE": 1},
         hook="features=lambda step: (step.text[0].unflatten(0, (3, -1)).mean(0), step.image[0])",
         by_hand=ByHand(features=_mean_of_draws)),
)  # fmt: skip
