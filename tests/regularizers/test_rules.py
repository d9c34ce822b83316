"""A class that cannot be a regularizer, a `compute` that gives no named scalars: one sentence each, with the file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin.errors import ConfigError
from cpt_plugin.regularizers import checked_parts
from cpt_plugin.regularizers.cpt import CPT
from tests.helpers.other_packages import WIDE

INIT = "def __init__(self, weight: float = 0.1) -> None:"
ACTIVE = "    @property\n    def active(self):\n        return self.weight > 0\n"
COMPUTE = WIDE[WIDE.index("    def compute") :]
WRONG = {
    "lacks the property 'active': define it": (ACTIVE, ""),
    "has 'active' as a method, which is always true: write @property above it": ("    @property\n", ""),
    "lacks the method 'compute': define it": (COMPUTE, ""),
    "has a 'compute' that cannot be called: it must be a method compute(self, batch)": ("(self, batch)", "(self)"),
    "lacks the attribute 'paper': give it a text": ('"none"', '""'),
    "lacks the attribute 'name': give it a text": ("name, config_node, paper", "label, config_node, paper"),
    "has a tuple as attribute 'name': make it a text": ('= "wide", "WIDE"', '= ("wide",), "WIDE"'),
    "has the name 'wide-1': small letters, digits and _ make up names": ('= "wide", "WIDE"', '= "wide-1", "WIDE-1"'),
    "has the configuration node 'WDIE': make it 'WIDE', the name in capitals": ('"WIDE"', '"WDIE"'),
    "give setting 'weight' a default value": ("weight: float = 0.1", "weight: float"),
    "has '**settings' in __init__: name every setting there": ("weight: float = 0.1", "weight=0.1, **settings"),
    "has None as default of setting 'weight': make it one of bool, int": ("float = 0.1", "object = None"),
    "it must be a method prepare(self, frozen_text, class_names)": (
        ACTIVE, f"{ACTIVE}\n    def prepare(self, frozen_text):\n        pass\n"
    ),
    "it must be a method strength(self, batch)": (ACTIVE, f"{ACTIVE}\n    strength = 0.5\n"),
    "is no regularizer: @register stands above a class derived from cpt_plugin.regularizers.Regularizer": (
        "(Regularizer)", ""
    ),
}  # fmt: skip


def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """The sentence with which importing a module of this text ends."""
    (tmp_path / "my_losses.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        import_module("my_losses")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("message", WRONG)
def test_a_class_that_breaks_a_rule_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    old, new = WRONG[message]
    assert old in WIDE
    said = fault(tmp_path, monkeypatch, WIDE.replace(old, new))
    assert said.startswith(f"Wide ({tmp_path / 'my_losses.py'}) ")
    assert message in said


@pytest.mark.usefixtures("registry")
def test_a_function_is_no_regularizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from cpt_plugin.regularizers import register\n\n@register\ndef wide(batch):\n    return {}\n"
    assert "is no regularizer: @register stands above a class" in fault(tmp_path, monkeypatch, text)


@pytest.mark.usefixtures("registry")
def test_other_ways_to_define_the_same_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = WIDE.replace(ACTIVE, "    active = True\n").replace("(self, batch)", "(self, batch, *, more=None)")
    (tmp_path / "my_losses.py").write_text(
        f"{text}\n    @staticmethod\n    def prepare(frozen, names):\n        pass\n"
        "\n    def prepare_counts(self, *counts):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_losses  # type: ignore[import-not-found]

    assert my_losses.Wide().active


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (ONE, "a tensor of shape (), float32, not a dict"),
        (None, "None, not a dict"),
        ([ONE], "a list, not a dict"),
        ({"wide": 0.5}, "a float as part 'wide', not a scalar tensor"),
        ({"etf": ONE, "wide": torch.ones(4)}, "a tensor of shape (4,), float32 as part 'wide', not a scalar"),
        ({"wide": torch.ones(1)}, "a tensor of shape (1,), float32 as part 'wide', not a scalar"),
        ({"wide": torch.tensor(1)}, "a tensor of shape (), int64 as part 'wide', not a scalar"),
        ({3: ONE}, "a part under 3, not under a name"),
    ],
)
def test_what_compute_returned_is_checked(value: Any, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_parts(CPT(), value)
    said = str(caught.value)
    assert said.startswith("compute() of the regularizer 'cpt', CPT (")
    assert "regularizers/cpt.py), returned " + wrong in said
    assert "return a dict of named scalar tensors" in said
    assert "\n" not in said


def test_named_scalars_pass_as_they_are() -> None:
    parts = {"etf": ONE, "cc": torch.tensor(float("nan"), dtype=torch.float64)}
    assert checked_parts(CPT(), parts) is parts
    assert checked_parts(CPT(), {}) == {}
