"""ATPrompt and AnchorOPT: attributes or learned anchors in the prompts of CoOp, CoCoOp, MaPLe and DePT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.foreign_cases import COCOOP, COOP, DEEP, MAPLE, ByHand, Case, Repository
from tests.parity.foreign_weights import write_weights
from tests.runner.released import CLASSES

_ATTRIBUTE = {
    "TRAINER.ATPROMPT.USE_ATPROMPT": True,
    "TRAINER.ATPROMPT.ATT_NUM": 1,
    "TRAINER.ATPROMPT.ATT1_TEXT": "habitat",
    "DATASET.SUBSAMPLE_CLASSES": "base",
}
_ANCHOR = {"TRAINER.ANCHOROPT.USE_ANCHOROPT": True, "DATASET.SUBSAMPLE_CLASSES": "base"}


def _two_clips(folder: Path, case: Case) -> None:
    """The anchor, and CLIP's weights where this trainer looks for them."""
    _anchor(folder, case)
    (folder / "clip").mkdir(exist_ok=True)
    write_weights(folder / "clip" / "ViT-B-16.pt", case)


def _anchor(folder: Path, case: Case) -> None:
    """An anchor that stays as it is drawn, and sentences for training one."""
    weights = folder / "anchor_weights" / "EuroSAT" / "anchor_prompt_learner" / "model.pth.tar"
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "epoch": 1}, weights)
    (folder / "templates").mkdir(exist_ok=True)
    sentences = {name: [f"{name} seen from a satellite.", f"An aerial view of {name}."] for name in CLASSES}
    (folder / "templates" / "eurosat_prompts_full.json").write_text(json.dumps(sentences))


_REPOSITORY = Repository("CPT_RELEASED_ATPROMPT", dassl="Dassl.pytorch")
_LOGITS, _LOSS = "(logits, logits of the anchor)", "loss"
_TWO = ByHand(text="text_encoder_maple", image="image_encoder_maple")
_SELECTION = Repository("CPT_RELEASED_ATPROMPT", dassl="Dassl.pytorch", train="train_select_attribute")
_ATTRIBUTES = {f"TRAINER.COOP.ATT{i}_TEXT": word for i, word in enumerate(("shape", "color", "size", "use", "kind"), 1)}


def _mean_of_the_first(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    """The mean over the combinations of attributes."""
    (text,), (image,) = texts, images
    return text.sum(0) / len(text), image


CASES = (
    Case(_REPOSITORY, "CoOp_ATP", "logits", {**COOP, **_ATTRIBUTE}),
    Case(_REPOSITORY, "CoCoOp_ATP", "loss; text features of each image", {**COCOOP, **_ATTRIBUTE}),
    Case(_REPOSITORY, "MaPLe_ATP", _LOSS, {**DEEP, **_ATTRIBUTE}, sizes=MAPLE),
    Case(_REPOSITORY, "DePT_ATP", _LOSS, {**COOP, **_ATTRIBUTE}),
    Case(_REPOSITORY, "CoOp_Pretrain_Anchor", "(logits, text, fixed text)", {**COOP, **_ANCHOR}, files=_anchor,
         hook="accumulation=1"),
    Case(_REPOSITORY, "CoOp_AnchorOPT", _LOGITS, {**COOP, **_ANCHOR}, files=_anchor),
    Case(_REPOSITORY, "CoCoOp_AnchorOPT", f"{_LOGITS}; text features of each image", {**COCOOP, **_ANCHOR},
         files=_anchor),
    Case(_REPOSITORY, "MaPLe_AnchorOPT", _LOGITS, {**DEEP, **_ANCHOR}, sizes=MAPLE, files=_two_clips,
         hook='text="text_encoder_maple", image="image_encoder_maple"', by_hand=_TWO),
    Case(_REPOSITORY, "DePT_AnchorOPT", _LOSS, {**COOP, **_ANCHOR}, files=_anchor),
    Case(_SELECTION, "AttributeCompute", "logits; two forwards a step", {**COOP, **_ATTRIBUTES},
         hook='features=lambda step: (step.text[0].mean(0), step.image[0]), forwards="first"',
         by_hand=ByHand(features=_mean_of_the_first, parser="parse_batch", once=True), reports_late=True),
)  # fmt: skip
