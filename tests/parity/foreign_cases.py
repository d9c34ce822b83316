"""What the cases of :mod:`tests.parity.foreign` are made of: repository, trainer, the hook's line, explicit sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHTS = {"weight_etf": 0.8, "weight_cc": 0.6, "weight_rs": 0.4}
CLUSTER_SIZE = 2
SHOTS, BATCH, STEPS = 3, 4, 3
LOSS_SCALE = 1024.0
"""Of mixed precision, which here is only the scaling: there is no GPU, so nothing is cast."""
SMALL = {"text_width": 64, "vision_width": 64, "embed_dim": 32}
RESNET: dict[str, Any] = {"text_width": 64, "vision_width": 8, "vision_layers": (1, 1, 1, 1), "embed_dim": 32}
MAPLE = {"text_width": 512, "vision_width": 768, "embed_dim": 64}

COOP = {"TRAINER.COOP.PREC": "fp32", "TRAINER.COOP.N_CTX": 4}
COCOOP = {"TRAINER.COCOOP.PREC": "fp32", "TRAINER.COCOOP.N_CTX": 4}
DEEP = {"TRAINER.MAPLE.PREC": "fp32", "TRAINER.MAPLE.PROMPT_DEPTH": 2}


def both_sides(node: str) -> dict[str, Any]:
    """Options of a trainer with prompts in both towers."""
    return {
        f"TRAINER.{node}.PREC": "fp32",
        f"TRAINER.{node}.N_CTX_VISION": 2,
        f"TRAINER.{node}.N_CTX_TEXT": 2,
        f"TRAINER.{node}.PROMPT_DEPTH_VISION": 2,
        f"TRAINER.{node}.PROMPT_DEPTH_TEXT": 2,
    }


def nothing(*_: Any, **__: Any) -> None:
    """For repositories and cases that need no preparation."""


@dataclass(frozen=True)
class Repository:
    """A clone named by ``variable``, and what it needs from outside.

    ``folder`` inside it holds the code, ``trainers`` in that its trainers, ``clips`` names its copies of CLIP;
    ``dassl`` is its own copy of Dassl if it must have that one. ``stand_ins(code)`` runs before its ``train.py`` is
    imported: modules that the code imports but does not have, or that are not needed; ``lacks`` says which.
    ``arguments`` are words of its command line that its configuration needs, ``train`` is the module that reads them.
    """

    variable: str
    folder: str = ""
    trainers: str = "trainers"
    dassl: str = ""
    clips: tuple[str, ...] = ("clip",)
    stand_ins: Callable[[Path], None] = nothing
    lacks: str = ""
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    train: str = "train"

    @property
    def name(self) -> str:
        return self.variable.removeprefix("CPT_RELEASED_").lower()


def one_or_each_image(texts: list[Any], images: list[Any]) -> tuple[Tensor, Tensor]:
    """(K, d) of one call of the text encoder, (B, K, d) of a call for each image; one call of the image encoder."""
    (image,) = images
    return texts[0] if len(texts) == 1 else torch.stack(texts), image


@dataclass(frozen=True)
class ByHand:
    """How the explicit sum is formed, without the hook.

    What the modules ``text`` and ``image`` below ``trainer.model`` return with gradients on is noted in the order of
    the calls; ``features(texts, images)`` are the features of a forward, with the model as a third argument where
    ``with_model``. ``labels`` picks them from what the trainer's method ``parser`` returns, from the batch where there
    is none. The regularizer is added, times ``multiplier``, in the first call of ``derivative`` (module or class,
    name) after a forward (``backward``: how many to let pass), of each forward or of a step's first one only
    (``once``).
    """

    text: str = "text_encoder"
    image: str = "image_encoder"
    features: Callable[..., tuple[Tensor, Tensor]] = one_or_each_image
    with_model: bool = False
    parser: str = "parse_batch_train"
    labels: Callable[[Any], Tensor] = lambda parsed: parsed[1]
    multiplier: float = 1.0
    backward: int = 0
    once: bool = False
    derivative: tuple[str, str] = ("torch.Tensor", "backward")


@dataclass(frozen=True)
class Case:
    """One released trainer.

    ``returns`` is what its model gives in training, ``hook`` what a user writes in ``CPTHook(...)`` beside the
    weights (``frozen_text`` in it are features by plain CLIP, ``trainer`` is that trainer). ``refused`` is what the
    refusal must say, empty where the hook must work. ``whole`` runs a whole training too, and prototypes for the
    regularizer ``dapt``. ``reports_late``: the loss that it reports is one after an update, so the regularizer
    changes it. ``files(folder, case)`` writes what the trainer expects in fixed places; ``before(build, folder)``
    does what it needs from an earlier run, where ``build(**options)`` gives a trainer. ``options`` may be a
    function of the folder. ``template`` is the published sentence of its data set; ``variant`` says what is
    different where a trainer has several cases.
    """

    repository: Repository
    trainer: str
    returns: str
    options: dict[str, Any] | Callable[[Path], dict[str, Any]]
    hook: str = ""
    by_hand: ByHand = field(default_factory=ByHand)
    sizes: dict[str, Any] = field(default_factory=lambda: SMALL)
    resolution: int = 32
    patch: int = 16
    refused: str = ""
    whole: bool = False
    reports_late: bool = False
    files: Callable[[Path, Case], None] = nothing
    before: Callable[[Callable[..., Any], Path], None] = nothing
    variant: str = ""
    template: str = "a centered satellite photo of {}."

    @property
    def title(self) -> str:
        return f"{self.trainer}, {self.variant}" if self.variant else self.trainer

    @property
    def name(self) -> str:
        return f"{self.title} ({self.repository.name})"

    @property
    def line(self) -> str:
        """The hook as a user writes it."""
        return f"CPTHook(..., {self.hook})" if self.hook else "CPTHook(...)"

    def values(self, folder: Path) -> dict[str, Any]:
        """Options of its configuration."""
        return self.options if isinstance(self.options, dict) else self.options(folder)
