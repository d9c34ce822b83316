"""The long-tail losses as parts: what their settings mean, when they are the cross-entropy, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin import functional, long_tail_losses
from cpt_plugin.errors import ConfigError
from cpt_plugin.hook import CPTHook
from cpt_plugin.long_tail_losses import LogitBatch, available, build, checked_loss
from cpt_plugin.runner.arguments import regularizer_names

COUNTS = torch.tensor([100, 0, 1, 7])


def batch(**changes: Any) -> LogitBatch:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LogitBatch(**{"logits": logits, "labels": torch.tensor([0, 3, 3, 1, 2]), "counts": COUNTS} | changes)


def value(name: str, step: LogitBatch, **settings: Any) -> torch.Tensor:
    (loss,) = build([name], {name.upper(): {key.upper(): setting for key, setting in settings.items()}})
    return loss.compute(step)


def test_settings_reach_the_functions() -> None:
    step = batch(scale=20.0)
    z, y = step.logits, step.labels
    pairs = (
        (value("la", step, tau=0.5), functional.logit_adjustment(z, y, COUNTS, 0.5)),
        (value("bs", step), functional.balanced_softmax(z, y, COUNTS)),
        (value("focal", step, gamma=1.5), functional.focal(z, y, 1.5)),
        (value("cb", step, beta=0.9), functional.class_balanced(z, y, COUNTS, 0.9)),
        (value("ldam", step, max_margin=0.1), functional.ldam(z, y, COUNTS, 0.1, 20.0)),
    )
    for found, expected in pairs:
        assert torch.equal(found, expected)


def test_deferred_weights_begin_at_their_epoch() -> None:
    early, late = (value("ldam", batch(progress=p), drw_start=0.8, drw_beta=0.99) for p in (0.79, 0.8))
    step = batch()
    assert torch.equal(early, functional.ldam(step.logits, step.labels, COUNTS, 0.5, 1.0))
    assert torch.equal(late, functional.ldam(step.logits, step.labels, COUNTS, 0.5, 1.0, 0.99))
    assert not torch.equal(early, late)
    assert torch.equal(value("ldam", batch(progress=0.99)), early)


@pytest.mark.parametrize(
    ("name", "settings", "active"),
    [
        ("la", {"TAU": 0.0}, False), ("la", {}, True), ("bs", {}, True), ("focal", {"GAMMA": 0.0}, False),
        ("focal", {}, True), ("cb", {"BETA": 0.0}, False), ("cb", {}, True), ("ldam", {"MAX_MARGIN": 0.0}, False),
        ("ldam", {}, True), ("ldam", {"MAX_MARGIN": 0.0, "DRW_START": 0.5}, True),
        ("ldam", {"MAX_MARGIN": 0.0, "DRW_START": 0.5, "DRW_BETA": 0.0}, False),
    ],
)  # fmt: skip
def test_settings_that_leave_the_cross_entropy_are_seen(name: str, settings: dict[str, float], active: bool) -> None:
    (loss,) = build([name], {name.upper(): settings})
    assert loss.active is active


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("la", {"TAU": float("inf")}, "LA.TAU must be a finite number"),
        ("focal", {"GAMMA": -1.0}, "FOCAL.GAMMA must be a finite number >= 0"),
        ("cb", {"BETA": 1.0}, "CB.BETA must be a finite number >= 0 and < 1"),
        ("ldam", {"DRW_START": 1.5}, "LDAM.DRW_START must be a finite number >= 0 and <= 1"),
        ("ldam", {"DRW_BETA": 1.0}, "LDAM.DRW_BETA must be a finite number >= 0 and < 1"),
        ("ldam", {"MAX_MARGIN": -0.5}, "LDAM.MAX_MARGIN"),
        ("la", {"TAO": 1.0}, "LA.TAO is unknown; did you mean 'TAU'"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build([name], {name.upper(): settings})


def test_every_loss_is_named_like_its_file_and_described() -> None:
    stems = {path.stem for path in Path(long_tail_losses.__file__).parent.glob("*.py") if path.stem[0] != "_"}
    assert {"la", "bs", "focal", "cb", "ldam"} <= available().keys() == stems - {"base"}
    for name, cls in available().items():
        assert cls.name == name
        assert cls.config_node == name.upper()
        assert cls.paper
        assert "\n" not in cls.description


def test_a_hook_refuses_a_loss_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="la replaces the cross-entropy, which a trainer computes itself"):
        CPTHook(regularizers=long_tail_losses.build(["la"], {}))
    with pytest.raises(ConfigError, match="'focal' replaces the cross-entropy, which the script computes itself"):
        regularizer_names("cpt,focal")


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (torch.ones(3), "a tensor of shape (3,), float32"),
        (0.5, "a float"),
        ({"la": torch.tensor(1.0)}, "a dict"),
        (torch.tensor(1), "a tensor of shape (), int64"),
    ],
)
def test_a_loss_that_gives_no_scalar_is_named(value: object, wrong: str) -> None:
    (loss,) = build(["la"], {})
    with pytest.raises(ConfigError, match=r"compute\(\) of the long-tail loss 'la', .*la\.py\), returned ") as caught:
        checked_loss(loss, value)
    assert f"returned {wrong}: return the mean over the batch" in str(caught.value)
    assert checked_loss(loss, scalar := torch.tensor(1.0)) is scalar
