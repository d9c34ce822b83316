"""SkipTuning: fine-tuned encoders; its last layers on batches of stored features, without the first ones."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.parity.foreign_cases import ByHand, Case, Repository, nothing
from tests.parity.foreign_stubs import stub


def _stand_ins(code: Path) -> None:
    stub("yagmail")
    stub("torchinfo", summary=nothing)
    torch.cuda.device_count = lambda: 1
    import_module("dassl.config").get_cfg_default = import_module("trainers._base_.config").get_cfg_default
    trainer = import_module("trainers.skip_tuning").SkipTuning
    build_model = trainer.build_model

    def build_and_store_features(self: Any) -> None:
        build_model(self)
        self.epoch = self.start_epoch = 0
        self.before_train()
        self.train_loader_x = self.feature_loader.get_features()

    trainer.build_model = build_and_store_features


_REPOSITORY = Repository(
    "CPT_RELEASED_SKIPTUNING", stand_ins=_stand_ins, clips=("clip", "clip_maple", "clip_coprompt", "clip_tcp"),
    lacks="`yagmail`, `torchinfo` (not needed); is told that there is one GPU",
)  # fmt: skip
_OPTIONS = {"TRAINER.PREC": "fp32"}
_SKIP = {**_OPTIONS, "TRAINER.SKIP.START_LAYER": 1}
_STORED = ByHand(parser="", labels=lambda batch: batch[1])
CASES = (
    Case(_REPOSITORY, "FinetuneCLIP", "(loss, dictionary)", _OPTIONS),
    Case(_REPOSITORY, "SkipTuning", "(loss, dictionary)", {**_SKIP, "TRAINER.SKIP.TOP_RATIO": 1.0}, by_hand=_STORED,
         variant="all classes"),
    Case(_REPOSITORY, "SkipTuning", "(loss, dictionary)", _SKIP, by_hand=_STORED, variant="some classes",
         refused="classes"),
)  # fmt: skip
