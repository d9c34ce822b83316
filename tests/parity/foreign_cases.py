"""The released trainers that the hook is tried on: where they are, how they are set up, what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WEIGHTS = {"weight_etf": 0.8, "weight_cc": 0.6, "weight_rs": 0.4}
CLUSTER_SIZE = 2
SHOTS, BATCH, STEPS = 3, 4, 3
SMALL = {"text_width": 64, "vision_width": 64, "embed_dim": 32}
MAPLE = {"text_width": 512, "vision_width": 768, "embed_dim": 64}

_COOP = {"TRAINER.COOP.PREC": "fp32", "TRAINER.COOP.N_CTX": 4}
_DEEP = {"TRAINER.MAPLE.PREC": "fp32", "TRAINER.MAPLE.PROMPT_DEPTH": 2}
_COCOOP = {"TRAINER.COCOOP.PREC": "fp32", "TRAINER.COCOOP.N_CTX": 4}


def _both_sides(node: str) -> dict[str, Any]:
    return {
        f"TRAINER.{node}.PREC": "fp32",
        f"TRAINER.{node}.N_CTX_VISION": 2,
        f"TRAINER.{node}.N_CTX_TEXT": 2,
        f"TRAINER.{node}.PROMPT_DEPTH_VISION": 2,
        f"TRAINER.{node}.PROMPT_DEPTH_TEXT": 2,
    }


@dataclass(frozen=True)
class Repository:
    """A clone named by ``variable``; ``folder`` inside it holds the code, ``dassl`` its own copy of Dassl if it must.

    Modules that the code imports but does not have, or that are not needed, get a stand-in from outside.
    """

    variable: str
    folder: str = ""
    dassl: str = ""


@dataclass(frozen=True)
class Case:
    """One released trainer.

    ``returns`` is what its model gives in training. ``refused`` is what the refusal must say, empty where the hook must
    work. ``whole`` runs a whole training too, and prototypes for the regularizer ``dapt``.
    """

    repository: Repository
    trainer: str
    returns: str
    options: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=lambda: SMALL)
    resolution: int = 32
    patch: int = 16
    refused: str = ""
    whole: bool = False

    @property
    def name(self) -> str:
        return f"{self.trainer} ({self.repository.variable.removeprefix('CPT_RELEASED_').lower()})"


_FIRST_COOP = Repository("CPT_RELEASED_COOP")
_MAPLE = Repository("CPT_RELEASED_MAPLE")
_DEPT = Repository("CPT_RELEASED_DEPT")
_DPC = Repository("CPT_RELEASED_DPC", dassl="Dassl.pytorch")
_DEPT_OPTIONS = {"DATASET.SUBSAMPLE_CLASSES": "base", "OPTIM.LR_EXP": 2.0}
_LARGE = {"resolution": 224, "patch": 112}

CASES = (
    Case(_FIRST_COOP, "CoOp", "logits", _COOP, whole=True),
    Case(_FIRST_COOP, "CoCoOp", "loss; text features of each image", _COCOOP),
    Case(_FIRST_COOP, "ZeroshotCLIP", "logits, no training", {}, refused="no torch module `model`"),
    Case(_MAPLE, "MaPLe", "loss", _DEEP, sizes=MAPLE, whole=True),
    Case(_MAPLE, "IVLP", "loss", _both_sides("IVLP")),
    Case(
        _MAPLE, "VPT", "loss",
        {"TRAINER.VPT.PREC": "fp32", "TRAINER.VPT.N_CTX_VISION": 2, "TRAINER.VPT.PROMPT_DEPTH_VISION": 2},
        refused="methods without learned text prompts, such as VPT",
    ),
    Case(Repository("CPT_RELEASED_PROMPTSRC"), "PromptSRC", "tuple of 7", _both_sides("PROMPTSRC"), whole=True),
    Case(Repository("CPT_RELEASED_KGCOOP", folder="KgCoOp"), "KgCoOp", "(logits, score)",
         {**_COOP, "TRAINER.COCOOP.PREC": "fp32", "TRAINER.COOP.W": 8.0}, sizes={**SMALL, "embed_dim": 512}),
    Case(Repository("CPT_RELEASED_KGCOOP", folder="KgCoOp", dassl="Dassl.ProGrad.pytorch"), "ProGrad", "logits",
         {**_COOP, "LOSS.NAME": "prograd"}, refused="back-propagated more than once"),
    Case(_DEPT, "ExtrasLinearProbeCoOp", "loss", {**_COOP, **_DEPT_OPTIONS}),
    Case(_DEPT, "ExtrasLinearProbeMaPLe", "loss",
         {**_DEEP, **_DEPT_OPTIONS}, sizes=MAPLE),
    Case(Repository("CPT_RELEASED_DAPT"), "DAPT", "(logits, image, text)",
         {"TRAINER.DAPT.VIS_NUM_TOKENS": 3, "TRAINER.DAPT.TXT_NUM_TOKENS": 3}),
    Case(Repository("CPT_RELEASED_PROMPTKD"), "PromptKD", "(image, scale)",
         {**_both_sides("PROMPTKD"), "TRAINER.PROMPTKD.TEACHER_NAME": "ViT-L/14"},
         sizes={**SMALL, "embed_dim": 512}, refused="no module `text_encoder`"),
    Case(_DPC, "CoOp", "logits", _COOP, **_LARGE),
    Case(_DPC, "StackSPLE_CoOp", "two logits of rebuilt pairs",
         {**_COOP, "DATASET.SUBSAMPLE_CLASSES": "all", "SPLE.INFER_TOPK": 3, "SPLE.BACK_CKPT_EPOCH": 1,
          "SPLE.STACK.MODE": "converse", "SPLE.STACK.WEIGHT": 0.2}, **_LARGE),
)  # fmt: skip
