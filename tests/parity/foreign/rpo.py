"""RPO: read-only prompts; the encoders are written out in the model's forward."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.foreign_cases import ByHand, Case, Repository


class _Copied(Tensor):
    """A tensor whose ``to`` copies, as to another device, on which the model writes into the copy."""

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.as_subclass(Tensor).clone()


def _stand_ins(code: Path) -> None:
    model = import_module("trainers.rpo").CustomCLIP
    make = model.make_prompts

    def make_prompts(self: Any, *args: Any) -> Any:
        prompts = make(self, *args)
        self.text_x = self.text_x.as_subclass(_Copied)
        return prompts

    model.make_prompts = make_prompts


def _features(texts: list[Tensor], images: list[Tensor], model: Any) -> tuple[Tensor, Tensor]:
    (text,), (prompted, _) = texts, images
    return text[torch.arange(len(text)), model.len_prompts] @ model.text_proj, prompted[:, 0] @ model.img_proj


_REPOSITORY = Repository(
    "CPT_RELEASED_RPO", stand_ins=_stand_ins, lacks="a copy to the GPU of a tensor into which it writes"
)
_OPTIONS = {"TRAINER.RPO.PREC": "fp32", "TRAINER.RPO.K": 1, "DATASET.SUBSAMPLE_CLASSES": "base"}
_LINE = (
    "text='text_ln_final', image='img_post_ln', frozen_text=frozen_text, features=lambda step: ("
    "step.text[0][range(len(step.text[0])), trainer.model.len_prompts] @ trainer.model.text_proj, "
    "step.image[0][:, 0] @ trainer.model.img_proj)"
)
CASES = (
    Case(_REPOSITORY, "RPO", "loss; no encoders", _OPTIONS, hook=_LINE, resolution=224,
         sizes={"text_width": 512, "vision_width": 768, "embed_dim": 512, "text_layers": 1, "vision_layers": 1},
         by_hand=ByHand("text_ln_final", "img_post_ln", _features, with_model=True)),
)  # fmt: skip
