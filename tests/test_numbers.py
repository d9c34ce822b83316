"""Numbers of settings and arguments: a truth value, text, NaN and infinity are refused everywhere, NumPy's taken."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from cpt_plugin import CPTLoss, long_tail_losses, regularizers
from cpt_plugin._numbers import number, whole
from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.errors import ClusterError, ConfigError, CPTError
from cpt_plugin.functional import (
    class_balanced,
    class_weights,
    focal,
    inter_dispersion,
    ldam,
    logit_adjustment,
    pair_separation,
    posthoc_adjustment,
    schedule_factor,
)
from trainers import controls

PARTS = regularizers.available() | long_tail_losses.available() | controls.available()
SHIPPED = (
    "bs", "cb", "focal", "la", "ldam",
    "cpt", "cptb", "cptx", "dapt", "etfa", "l2anchor", "npt",
    "mix", "posthoc", "stop",
)  # fmt: skip
"""Parts whose constructors check their numbers; one that somebody adds may leave that to the configuration."""
SETTINGS = [
    (part, key)
    for part, cls in PARTS.items()
    for key, parameter in inspect.signature(cls).parameters.items()
    if isinstance(parameter.default, int | float)
]
NO_NUMBERS = [True, False, np.True_, math.nan, math.inf, -math.inf, np.float32("nan"), "1", None, 1j, [1], 10**400]

TEXT, LOGITS, LABELS, COUNTS = torch.eye(3), torch.randn(2, 3), [0, 2], [5, 3, 1]
ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "temperature": lambda x: inter_dispersion(TEXT, x),
    "tau": lambda x: logit_adjustment(LOGITS, LABELS, COUNTS, x),
    "tau afterwards": lambda x: posthoc_adjustment(LOGITS, COUNTS, x),
    "gamma": lambda x: focal(LOGITS, LABELS, x),
    "beta": lambda x: class_balanced(LOGITS, LABELS, COUNTS, x),
    "max_margin": lambda x: ldam(LOGITS, LABELS, COUNTS, x),
    "scale": lambda x: ldam(LOGITS, LABELS, COUNTS, 0.5, x),
    "drw beta": lambda x: ldam(LOGITS, LABELS, COUNTS, 0.5, 1.0, x),
    "power": lambda x: class_weights(COUNTS, x),
    "margin": lambda x: pair_separation(TEXT, [0, 0, 1], margin=x),
    "progress": lambda x: schedule_factor("falling", x),
}


OWN_SETTINGS = [(part, key) for part, key in SETTINGS if part in SHIPPED]


@pytest.mark.parametrize(("part", "key"), OWN_SETTINGS)
def test_a_setting_that_is_no_number_is_refused_by_name(part: str, key: str) -> None:
    message = rf"{PARTS[part].config_node}\.{key.upper()} must be a (finite|whole) number"
    for wrong in NO_NUMBERS:
        with pytest.raises(ConfigError, match=message):
            PARTS[part](**{key: wrong})


@pytest.mark.parametrize(("part", "key"), SETTINGS)
def test_every_part_is_configured_with_finite_numbers_alone(part: str, key: str) -> None:
    node, wanted = f"{PARTS[part].config_node}.{key.upper()}", PARTS[part].defaults()[key.upper()]
    for wrong in [wrong for wrong in NO_NUMBERS if type(wrong) is not type(wanted) or type(wrong) is float]:
        with pytest.raises(ConfigError, match=rf"{node} must be "):
            PARTS[part].from_config({key.upper(): wrong})


@pytest.mark.parametrize(("part", "key"), SETTINGS)
def test_numbers_of_numpy_are_settings_like_others(part: str, key: str) -> None:
    default = PARTS[part].defaults()[key.upper()]
    given = np.asarray(default)[()]
    built = [PARTS[part].from_config({key.upper(): given}), *([PARTS[part](**{key: given})] if part in SHIPPED else [])]
    for own in (getattr(one, key, default) for one in built):
        assert (own, type(own)) == (default, type(default))


def test_the_parts_of_this_project_are_there() -> None:
    assert PARTS.keys() >= {*SHIPPED}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_is_no_number_is_refused_by_name(name: str) -> None:
    for wrong in NO_NUMBERS:
        with pytest.raises(ConfigError, match=rf"{name.split()[0] if 'drw' not in name else 'beta'} must be a finite"):
            ARGUMENTS[name](wrong)
    ARGUMENTS[name](np.float32(0.5))


def test_scale_of_ldam_may_be_a_tensor_of_one_number() -> None:
    expected = ldam(LOGITS, LABELS, COUNTS, 0.5, 30.0)
    assert torch.equal(ldam(LOGITS, LABELS, COUNTS, 0.5, torch.tensor(30.0)), expected)
    for wrong, message in ((torch.tensor(math.inf), "got inf"), (torch.tensor([1.0, 2.0]), r"got a tensor \(2,\)")):
        with pytest.raises(ConfigError, match=message):
            ldam(LOGITS, LABELS, COUNTS, 0.5, wrong)


@pytest.mark.parametrize("wrong", [True, 2.0, "2", math.nan, -1, 2**31, np.True_])
@pytest.mark.parametrize("key", ["num_clusters", "cluster_size", "seed"])
def test_whole_numbers_of_clusters(key: str, wrong: Any) -> None:
    with pytest.raises(ClusterError, match=r"must be a whole number in . \.\. 2\^31 - 1, got"):
        SemanticClusters.fit(TEXT, list("abc"), **{key: wrong})
    with pytest.raises(ConfigError, match="must be a whole number"):
        CPTLoss(TEXT, list("abc"), **{key.replace("seed", "cluster_seed"): wrong})


def test_class_names_are_not_the_letters_of_a_text() -> None:
    with pytest.raises(CPTError, match="class names must be a list with a name for each class, got the text 'abc'"):
        CPTLoss(TEXT, "abc")


def test_bounds_are_said() -> None:
    for bounds, value, message in (
        ({"least": 0}, -1, "k must be a finite number >= 0, got -1"),
        ({"above": 0}, 0.0, "k must be a finite number > 0, got 0.0"),
        ({"least": 0, "below": 1}, 1, "k must be a finite number >= 0 and < 1, got 1"),
        ({"least": 0, "most": 1}, 1.5, "k must be a finite number >= 0 and <= 1, got 1.5"),
        ({}, "x", "k must be a finite number, got 'x'"),
    ):
        with pytest.raises(ConfigError) as caught:
            number("k", value, **bounds)
        assert str(caught.value) == message
    with pytest.raises(ConfigError, match=r"^k must be a whole number in 1 \.\. 2\^31 - 1, got 0$"):
        whole("k", 0, 1)


def test_numbers_come_out_as_pythons() -> None:
    for value, expected in ((3, 3), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int8(3), 3.0), (Fraction(1, 2), 0.5)):
        found = number("k", value)
        assert (found, type(found)) == (expected, type(expected))
    assert [type(whole("k", value, 0)) for value in (3, np.uint8(3), np.int64(3))] == [int] * 3
