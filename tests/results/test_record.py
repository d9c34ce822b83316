"""Records: round trip, refusal of damaged or contradictory files naming the field, configurations."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.errors import RecordError
from cpt_plugin.results.record import (
    Accuracy,
    ClassResult,
    load,
    save,
)


def test_round_trip_keeps_every_bit(make_record, tmp_path):
    record = make_record("maple_cpt", losses={"etf": 1 / 3, "ce": math.pi}, dataset="straße")
    path = tmp_path / "seed1" / "record.json"
    save(record, path)
    assert load(path) == record
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_file_has_the_documented_form(make_record, tmp_path):
    save(make_record(), tmp_path / "record.json")
    text = (tmp_path / "record.json").read_text()
    plain = json.loads(text)
    assert plain["schema"] == 2
    assert plain["per_class"]["base"][0] == ["base 0", 9, 10]
    assert plain["accuracy"] == {"base": 65.0, "new": 50.0, "H": pytest.approx(2 * 65 * 50 / 115)}
    assert len(text.splitlines()) == len(plain) + 2


def test_accuracy_is_over_images_not_over_classes():
    found = Accuracy.from_classes([ClassResult("a", 1, 1), ClassResult("b", 0, 3)], [])
    assert found == Accuracy(25.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("schema",), 1, "field schema: expected 2, found 1"),
        (("seed",), "1", "field seed: expected a whole number, found '1'"),
        (("seed",), True, "field seed: expected a whole number, found True"),
        (("tau",), 1.5, r"field tau: 1.5 is not in \(0, 1\]"),
        (("realized_tau",), 0, "field realized_tau"),
        (("timings", "train"), "fast", "field timings.train: expected a finite number"),
        (("losses", "ce"), float("nan"), "field losses.ce: expected a finite number, found nan"),
        (("regularizers",), "cpt", "field regularizers: expected an array"),
        (("regularizers",), [1], r"field regularizers\[0\]: expected a text"),
        (("backbone",), ["micro"], "field backbone: expected an object"),
        (("git", "dirty"), 1, "field git.dirty: expected true or false"),
        (("groups", "head", "classes"), None, "field groups.head.classes: expected a whole number"),
        (("groups",), {}, "field groups: expected head, mid, tail, many, medium, few"),
        (("worst_class", "accuracy"), None, "field worst_class.accuracy"),
        (("accuracy", "H"), 60.0, "field accuracy.H: is 60.0, but base and new give 56.5"),
        (("accuracy", "base"), 65.1, "field accuracy.base: is 65.1, but the classes give 65.0"),
        (("accuracy", "new"), -1, "field accuracy.new: -1.0 is not a percentage"),
        (("per_class", "base", 0), ["a", 1], r"field per_class.base\[0\]: expected \[name, correct, total\]"),
        (("per_class", "new", 1), ["a", 3, 2], r"field per_class.new\[1\]: 3 of 2 correct"),
        (("config", "SEED"), 7, "field config_hash: is not the hash"),
        (("surprise",), 1, "field surprise: is unknown"),
    ],
)
def test_a_wrong_field_is_named(make_record, tmp_path, field, value, message):
    path = tmp_path / "record.json"
    save(make_record(), path)
    plain = json.loads(path.read_text())
    place = plain
    for key in field[:-1]:
        place = place[key]
    place[field[-1]] = value
    path.write_text(json.dumps(plain))
    with pytest.raises(RecordError, match=f"record.json: .*{message}"):
        load(path)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_a_missing_field_is_named(make_record, tmp_path_factory, data):
    plain = dataclasses.asdict(make_record("maple_cpt"))
    name = data.draw(st.sampled_from(sorted(plain)))
    del plain[name]
    path = tmp_path_factory.getbasetemp() / "missing.json"
    path.write_text(json.dumps({"schema": 2, **plain}))
    with pytest.raises(RecordError, match=f"missing.json: field {name}: is missing"):
        load(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00\x00"])
def test_a_torn_file_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"record\.json: (is not JSON|field)"):
        load(path)


def test_an_absent_or_undecodable_file_is_refused(tmp_path):
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        load(tmp_path / "record.json")
    (tmp_path / "record.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="is not JSON"):
        load(tmp_path / "record.json")


@pytest.mark.parametrize("changes", [{"losses": {"etf": math.inf}}, {"realized_tau": 0.0}, {"device": None}])
def test_what_could_not_be_loaded_is_not_saved(make_record, tmp_path, changes):
    with pytest.raises(RecordError, match="not written"):
        save(make_record(**changes), tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_configuration_that_is_not_json_is_not_saved(make_record, tmp_path, value):
    record = make_record()
    record.config["OUTPUT_DIR"] = value
    with pytest.raises(RecordError, match="not written"):
        save(record, tmp_path / "record.json")
