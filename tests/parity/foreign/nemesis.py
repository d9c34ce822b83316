"""Nemesis: CoOp with a loss on the norms of the prompts; trial calls of both encoders before the model's forward."""

from __future__ import annotations

from tests.parity.foreign_cases import Case, Repository

_OPTIONS = {
    "TRAINER.CoOpNemesis.PREC": "fp32",
    "TRAINER.CoOpNemesis.N_CTX": 4,
    "TRAINER.CoOpNemesis.A": 1.0,
    "TRAINER.CoOpNemesis.NP": "random2",
    "TRAINER.CoOpNemesis.CW": 0.1,
    "TRAINER.CoOpNemesis.BETA": 0.5,
}
_REPOSITORY = Repository("CPT_RELEASED_NEMESIS", clips=("clip", "clip_plot"))
CASES = (Case(_REPOSITORY, "CoOpNemesis", "logits", _OPTIONS),)
