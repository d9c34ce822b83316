"""Configurations: flattening, a hash of content alone, differences by key."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.config_identity import config_hash, differences, flatten, hashed_part

SCALARS = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(-1, 1), st.text(max_size=3), st.none())
CONFIGS = st.dictionaries(st.sampled_from(["A", "B", "C.D", "SEED", "VERBOSE"]), SCALARS)


def test_flattened_configuration():
    nested = {"B": {"Y": (1, 2), "X": {"Z": None}}, "A": "text"}
    assert flatten(nested) == {"A": "text", "B.X.Z": None, "B.Y": (1, 2)}
    assert hashed_part(nested) == {"A": "text", "B.X.Z": None, "B.Y": [1, 2]}


@given(config=CONFIGS, data=st.data())
@settings(deadline=None, max_examples=200)
def test_hash_depends_on_content_not_on_order(config, data):
    shuffled = OrderedDict(data.draw(st.permutations(list(config.items()))))
    assert config_hash(shuffled) == config_hash(config)


@given(one=CONFIGS, other=CONFIGS)
@settings(deadline=None, max_examples=200)
def test_hashes_agree_exactly_when_there_are_no_differences(one, other):
    assert (config_hash(one) == config_hash(other)) == (differences(one, other) == [])


def test_differences_are_printed_by_key_and_skip_paths():
    one = {"OUTPUT_DIR": "a", "DATASET.ROOT": "/x", "OPTIM.LR": 0.002, "SIZE": (1, 2), "SEED": 1, "OLD": None}
    other = {"OUTPUT_DIR": "b", "DATASET.ROOT": "/y", "OPTIM.LR": 0.02, "SIZE": [1, 2], "SEED": 2}
    assert differences(one, other) == ["OLD: null != (not set)", "OPTIM.LR: 0.002 != 0.02", "SEED: 1 != 2"]
    assert differences(one, other, ignore={"OLD", "OPTIM.LR", "SEED", "DATASET.ROOT"}) == [
        'OUTPUT_DIR: "a" != "b"'
    ]
