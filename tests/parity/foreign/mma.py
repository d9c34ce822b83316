"""MMA: adapters inside both encoders instead of prompts; its image encoder takes one list."""

from __future__ import annotations

from tests.parity.foreign_cases import Case, Repository

_OPTIONS = {
    "TRAINER.MMADAPTER.PREC": "fp32",
    "TRAINER.MMADAPTER.TEXT_CTX_INIT": "a photo of a",
    "TRAINER.MMADAPTER.ADAPTER_START": 1,
    "TRAINER.MMADAPTER.ADAPTER_END": 2,
}
CASES = (Case(Repository("CPT_RELEASED_MMA"), "MultiModalAdapter", "logits", _OPTIONS),)
