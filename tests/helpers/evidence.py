"""That every part of a method has worked in a run: its loss is there, finite and moves, and so do the prompts."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from cpt_plugin import toolkit
from cpt_plugin.methods import parse_method
from cpt_plugin.results.record import RunRecord

LOSSES = {
    "cpt": ("etf", "cc", "rs"), "cptb": ("etf", "cc", "rs"), "cptx": ("etf", "cc", "rs"),
    "npt": ("lc", "mi"), "dapt": ("inter", "intra"),
    "l2anchor": ("l2",), "etfa": ("etfa",), "dpc": ("dpc",),
}  # fmt: skip
OWN = {"promptsrc": ("scl_text", "scl_image", "scl_logits")}
DEGREES = ("lcd_cos", "lcd_fro", "mid_cos", "mid_fro")


def expected_losses(method: str) -> set[str]:
    """Names of the logged losses of all parts of a method; with DPC a long-tail loss acts in the first stage."""
    taken = parse_method(method)
    parts = [*taken.parts, *(["dpc"] if taken.dpc else [])]
    names = [name for part in parts for name in LOSSES.get(part, ())] + ([] if taken.dpc else [*taken.loss])
    return {f"loss_{name}" for name in [*names, *OWN.get(taken.prompt_learner, ())]} | {"loss"}


def check_losses(record: RunRecord) -> None:
    """All losses and degrees are in every epoch, finite, and not the same throughout."""
    assert len(record.history) >= 2
    for name in [*expected_losses(record.method), *DEGREES]:
        values = [epoch[name] for epoch in record.history]
        assert all(math.isfinite(value) for value in values), (name, values)
        assert len(set(values)) > 1, f"{name} is {values[0]} in every epoch"
    added = {name for epoch in record.history for name in epoch if name.startswith("loss_")}
    known = expected_losses(record.method)
    assert added - {"loss_reg", "loss_ce"} <= known, "a loss of a part that the method does not have"


def check_prompts(record: RunRecord, baseline: RunRecord | None, folder: Path) -> None:
    """The prompts are not the baseline's, and DPC's parallel prompts are not those of stage one.

    A method that changes the evaluation alone has the prompts of its baseline, and other results; one that stops
    early has those of some epoch.
    """
    method = parse_method(record.method)
    if baseline is not None and method.evaluation == method.parts:
        assert record.prompts_hash == baseline.prompts_hash
        assert record.history == baseline.history
    elif baseline is not None and method.parts != ("stop",):
        assert record.prompts_hash != baseline.prompts_hash
    if method.dpc and not method.evaluation:
        (path,) = folder.glob("*/model.pth.tar-*[0-9]")
        state = toolkit.load_checkpoint(str(path))["state_dict"]
        moved = [
            not torch.equal(value, state[f"stage_one.{name.removeprefix('parallel.')}"])
            for name, value in state.items()
            if name.startswith("parallel.")
        ]
        assert moved
        assert all(moved)
