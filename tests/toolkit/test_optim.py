"""Optimizers and schedules against closed forms, torch's own schedulers, and after every possible resume."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.config import get_cfg_default
from cpt_plugin.toolkit.embedded.optim import build_lr_scheduler, build_optimizer


def optim_cfg(**values):
    cfg = get_cfg_default().OPTIM
    for key, value in values.items():
        cfg[key] = value
    return cfg


def rates(cfg, epochs, reload_at=None):
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(layer, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    out = []
    for epoch in range(epochs):
        if epoch == reload_at:
            saved, saved_optimizer = scheduler.state_dict(), optimizer.state_dict()
            optimizer = build_optimizer(nn.Linear(2, 2), cfg)
            scheduler = build_lr_scheduler(optimizer, cfg)
            optimizer.load_state_dict(saved_optimizer)
            scheduler.load_state_dict(saved)
        out.append(optimizer.param_groups[0]["lr"])
        assert scheduler.get_last_lr() == [out[-1]]
        scheduler.step()
    return out


PUBLISHED = {
    "NAME": "sgd",
    "LR": 0.002,
    "LR_SCHEDULER": "cosine",
    "WARMUP_EPOCH": 1,
    "WARMUP_TYPE": "constant",
    "WARMUP_CONS_LR": 1e-5,
}


@pytest.mark.parametrize("total", [1, 5, 50, 200])
def test_published_schedule(total):
    expected = [1e-5] + [0.002 * 0.5 * (1 + math.cos(math.pi * (e - 2) / total)) for e in range(2, total + 1)]
    assert rates(optim_cfg(MAX_EPOCH=total, **PUBLISHED), total) == pytest.approx(expected, rel=1e-12)


def test_published_schedule_ends_as_the_notes_say():
    last = rates(optim_cfg(MAX_EPOCH=5, **PUBLISHED), 5)[-1]
    assert last / 0.002 == pytest.approx(0.3454915, rel=1e-6)


SCHEDULES = [
    {"LR_SCHEDULER": "cosine", "MAX_EPOCH": 8},
    {"MAX_EPOCH": 8, **PUBLISHED},
    {"LR_SCHEDULER": "cosine", "MAX_EPOCH": 8, "WARMUP_EPOCH": 3, "WARMUP_TYPE": "linear"},
    {"LR_SCHEDULER": "single_step", "MAX_EPOCH": 8, "STEPSIZE": (3,)},
    {"LR_SCHEDULER": "single_step", "MAX_EPOCH": 8},
    {
        "LR_SCHEDULER": "multi_step",
        "MAX_EPOCH": 8,
        "STEPSIZE": (2, 5),
        "WARMUP_EPOCH": 2,
        "WARMUP_TYPE": "linear",
    },
    {
        "LR_SCHEDULER": "cosine",
        "MAX_EPOCH": 8,
        "WARMUP_EPOCH": 2,
        "WARMUP_TYPE": "constant",
        "WARMUP_RECOUNT": False,
    },
]


@pytest.mark.parametrize("values", SCHEDULES)
def test_resume_at_every_epoch_gives_the_same_rates(values):
    cfg = optim_cfg(**values)
    whole = rates(cfg, 8)
    for epoch in range(1, 8):
        assert rates(cfg, 8, reload_at=epoch) == whole


def torch_rates(make, epochs):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.0003)
    scheduler = make(optimizer)
    out = []
    for _ in range(epochs):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.parametrize(
    ("values", "make"),
    [
        ({"LR_SCHEDULER": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8)),
        (
            {"LR_SCHEDULER": "single_step", "STEPSIZE": (3,)},
            lambda o: torch.optim.lr_scheduler.StepLR(o, 3, gamma=0.1),
        ),
        (
            {"LR_SCHEDULER": "multi_step", "STEPSIZE": (2, 5)},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5], gamma=0.1),
        ),
    ],
)
def test_without_warmup_as_torch(values, make):
    assert rates(optim_cfg(MAX_EPOCH=8, **values), 8) == pytest.approx(torch_rates(make, 8), rel=1e-9)


def test_linear_warmup_climbs_from_the_minimum():
    cfg = optim_cfg(LR=0.4, LR_SCHEDULER="cosine", MAX_EPOCH=9, WARMUP_EPOCH=4, WARMUP_TYPE="linear")
    assert rates(cfg, 5) == pytest.approx([1e-5, 0.1, 0.2, 0.3, 0.4])


WITHOUT_RECOUNT = [
    # From Dassl's code: the decay's counter starts at W, its rate at LR, and torch's schedulers go on from both.
    ({"MAX_EPOCH": 5, "WARMUP_EPOCH": 1}, [1e-5, 5.0, 3.618034, 1.909830, 0.527864]),
    ({"MAX_EPOCH": 4, "WARMUP_EPOCH": 2}, [1e-5, 1e-5, 5.0, 1.464466]),
    ({"MAX_EPOCH": 5, "WARMUP_EPOCH": 2, "WARMUP_TYPE": "linear"}, [1e-5, 2.5, 5.0, 2.639320, 0.729490]),
    ({"MAX_EPOCH": 6, "WARMUP_EPOCH": 2, "LR_SCHEDULER": "single_step", "STEPSIZE": (2,)},
     [1e-5, 1e-5, 5.0, 5.0, 0.5, 0.5]),
    ({"MAX_EPOCH": 6, "WARMUP_EPOCH": 2, "LR_SCHEDULER": "multi_step", "STEPSIZE": (1, 2, 4)},
     [1e-5, 1e-5, 5.0, 5.0, 0.5, 0.5]),
    ({"MAX_EPOCH": 3, "WARMUP_EPOCH": 3}, [1e-5, 1e-5, 1e-5]),
    ({"MAX_EPOCH": 3, "WARMUP_EPOCH": 5}, [1e-5, 1e-5, 1e-5]),
]  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), WITHOUT_RECOUNT)
def test_without_recounting_the_decay_has_counted_the_warmup_epochs(values, expected):
    common = {"NAME": "sgd", "LR": 5.0, "LR_SCHEDULER": "cosine", "WARMUP_TYPE": "constant", "WARMUP_RECOUNT": False}
    cfg = optim_cfg(**{**common, **values})
    assert rates(cfg, cfg.MAX_EPOCH) == pytest.approx(expected, rel=1e-5)


def dassl_without_recount(values, epochs):
    """What Dassl does, with torch's schedulers: the decay's counter is put to W, and it is stepped from epoch W on."""
    cfg = optim_cfg(**values)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=cfg.LR)
    decay = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(cfg.MAX_EPOCH)),
        "single_step": lambda: torch.optim.lr_scheduler.StepLR(optimizer, cfg.STEPSIZE[-1], gamma=cfg.GAMMA),
        "multi_step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, cfg.STEPSIZE, gamma=cfg.GAMMA),
    }[cfg.LR_SCHEDULER]()
    decay.last_epoch = cfg.WARMUP_EPOCH
    out = [cfg.WARMUP_CONS_LR] * min(cfg.WARMUP_EPOCH, epochs)
    while len(out) < epochs:
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    return out


@given(
    schedule=st.sampled_from(["cosine", "single_step", "multi_step"]),
    epochs=st.integers(1, 30),
    warm=st.integers(1, 12),
    gamma=st.sampled_from([0.1, 0.5]),
    steps=st.sets(st.integers(1, 20), min_size=1, max_size=3).map(sorted).map(tuple),
)
@settings(max_examples=60, deadline=None)
def test_without_recounting_as_torch_goes_on_from_a_later_epoch(schedule, epochs, warm, gamma, steps):
    values = {
        "NAME": "sgd", "LR": 0.002, "LR_SCHEDULER": schedule, "MAX_EPOCH": epochs, "WARMUP_EPOCH": warm,
        "WARMUP_TYPE": "constant", "WARMUP_RECOUNT": False, "GAMMA": gamma, "STEPSIZE": steps,
    }  # fmt: skip
    expected = dassl_without_recount(values, epochs)
    assert rates(optim_cfg(**values), epochs) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_scheduler_state_is_plain_numbers():
    cfg = optim_cfg(MAX_EPOCH=5, **PUBLISHED)
    scheduler = build_lr_scheduler(build_optimizer(nn.Linear(2, 2), cfg), cfg)
    assert {type(value) for value in scheduler.state_dict().values()} <= {int, float}


def test_staged_rates_keep_their_ratio_under_a_schedule():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(2, 2))
    model.add_module("head", nn.Linear(2, 2))
    cfg = optim_cfg(LR=0.1, STAGED_LR=True, NEW_LAYERS=("head",), LR_SCHEDULER="cosine", MAX_EPOCH=4)
    optimizer = build_optimizer(model, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    for _ in range(3):
        body, head = (group["lr"] for group in optimizer.param_groups)
        assert body == pytest.approx(0.1 * head)
        scheduler.step()


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    groups = build_optimizer(model, optim_cfg(NAME="sgd")).param_groups
    assert [id(p) for p in groups[0]["params"]] == [id(model.weight)]


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "radam", "rmsprop", "sgd"])
def test_every_optimizer_takes_a_step(name):
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, optim_cfg(NAME=name, LR=0.1))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"NAME": "lion"}, "OPTIM.NAME"),
        ({"LR_SCHEDULER": "linear"}, "OPTIM.LR_SCHEDULER"),
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "none"}, "OPTIM.WARMUP_TYPE"),
        ({"LR_SCHEDULER": "multi_step"}, "OPTIM.STEPSIZE"),
        ({"MAX_EPOCH": 0}, "OPTIM.MAX_EPOCH"),
        ({"STAGED_LR": True, "NEW_LAYERS": ("absent",)}, "absent"),
        ({"NAME": "sgd", "SGD_NESTEROV": True, "MOMENTUM": 0.0}, "sgd"),
    ],
)
def test_wrong_options_are_refused(values, key):
    cfg = optim_cfg(**values)
    with pytest.raises(ConfigError, match=key):
        build_lr_scheduler(build_optimizer(nn.Linear(2, 2), cfg), cfg)


def test_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="nothing to train"):
        build_optimizer(nn.Identity(), optim_cfg())
