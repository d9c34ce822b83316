"""Records: round trip, refusal of damaged or contradictory files naming the field, configurations."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.config_identity import config_hash
from cpt_plugin.errors import RecordError
from cpt_plugin.results.groups import FEW_SHOT_BANDS, group_accuracies
from cpt_plugin.results.record import (
    SCHEMA,
    ClassResult,
    Evaluation,
    from_plain,
    load,
    save,
    to_plain,
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
    assert plain["schema"] == SCHEMA == 4
    base = plain["evaluations"]["base"]
    assert (base["dataset"], base["classes"], base["accuracy"]) == ("shapes", "base", 65.0)
    assert base["per_class"][0] == ["base 0", 9, 10]
    assert list(plain["evaluations"]) == ["base", "new"]
    assert len(text.splitlines()) == len(plain) + 2


def test_classes_trained_on_come_first_whatever_the_order_in_the_file(make_record, tmp_path):
    """As JSON lines have it, whose keys are sorted."""
    record = make_record("coop", protocol="cross_dataset", targets={"shapes:colors:clean": 4, "another": 2})
    plain = to_plain(record)
    plain["evaluations"] = dict(sorted(plain["evaluations"].items(), reverse=True))
    found = from_plain(plain, "here")
    assert list(found.evaluations) == ["source", "shapes:colors:clean", "another"]
    other = dataclasses.replace(record, dataset="imagenet (own split 1)", evaluations={
        name: record.evaluations["source"] for name in ("caltech101", "source", "ucf101", "oxford_pets")
    })
    assert list(from_plain(to_plain(other), "here").evaluations) == ["source", "caltech101", "oxford_pets", "ucf101"]
    assert [one.name for one in found.trained.per_class] == [f"base {index}" for index in range(6)]


def test_accuracy_is_over_images_not_over_classes():
    found = Evaluation.of("shapes", "all", [ClassResult("a", 1, 1), ClassResult("b", 0, 3)], "hash")
    assert found.accuracy == 25.0
    assert Evaluation.of("shapes", "all", [], "hash").accuracy == 0.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("schema",), 1, "field schema: expected 4, found 1"),
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
        (("evaluations", "base", "accuracy"), 65.1, "field evaluations.base.accuracy: is 65.1, but .* give 65.0"),
        (("evaluations", "new", "accuracy"), -1, "field evaluations.new.accuracy: is -1.0"),
        (("evaluations", "base", "per_class", 0), ["a", 1], r"base.per_class\[0\]: expected \[name, correct, total\]"),
        (("evaluations", "new", "per_class", 1), ["a", 3, 2], r"evaluations.new.per_class\[1\]: 3 of 2 correct"),
        (("evaluations",), {}, "field evaluations: expected base and new, found none"),
        (("protocol",), "few_shot_all", "field evaluations: expected all, found base, new"),
        (("protocol",), "cross_dataset", "field evaluations: expected source and targets, found base, new"),
        (("protocol",), "zero_shot", "field protocol: expected one of base_to_new, "),
        (("config", "SEED"), 7, "field config_hash: is not the hash"),
        (("config", "OPTIM.LR"), float("inf"), "field config: holds a number that is not finite"),
        (("seed",), 2, "field seed: is 2, but SEED is 1"),
        (("groups", "tail", "accuracy"), 5000.0, "field groups.tail: 5000.0 % of 2 classes cannot be"),
        (("groups", "tail", "accuracy"), None, "field groups.tail: None % of 2 classes cannot be"),
        (("worst_class", "accuracy"), 39.0, "field worst_class: is .*39.0.* but the classes give .*40.0"),
        (("evaluations", "new", "per_class"), [], "field evaluations.new.per_class: no test image in any class"),
        (("surprise",), 1, "field surprise: is unknown"),
        (("class_counts",), [16, 4], "field class_counts: has 2 classes, but 6 are tested"),
        (("class_counts",), [0] * 6, "field class_counts: 0 to 0 training images cannot be"),
        (("class_counts", 0), -1, "field class_counts: -1 to"),
        (("class_counts", 0), 32, "field realized_tau: is 0.25, but class_counts give 0.125"),
        (("class_counts",), [4, 5, 7, 9, 12, 16], r"field groups.head: is .*85.0.*, but the classes give .*45.0"),
        (("counts_from",), "hearsay", "field counts_from: expected one of data, derived, schedule"),
        (("bands",), [3, 3], "field bands: many has 3 or more, .* overlap"),
        (("evaluations", "base", "predicted"), [60], "field evaluations.base.predicted: does not fit"),
        (("evaluations", "base", "predicted"), [10, 10, 10, 10, 10, 11], "evaluations.base.predicted: does not fit"),
        (("evaluations", "base", "predicted"), [1, 19, 10, 10, 10, 10], "evaluations.base.predicted: does not fit"),
        (("evaluations", "base", "ece"), 101.0, "field evaluations.base.ece: 101.0 % cannot be"),
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
    path.write_text(json.dumps({"schema": SCHEMA, **plain}))
    with pytest.raises(RecordError, match=f"missing.json: field {name}: is missing"):
        load(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00\x00", "[" * 100_000])
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


# -- other protocols, older schemas --------------------------------------------------------------------------------

V2 = Path(__file__).parent / "data" / "record_v2.json"


def test_metrics_of_every_protocol(make_record):
    base_to_new = make_record().metrics
    assert base_to_new == {"base": 65.0, "new": 50.0, "H": pytest.approx(2 * 65 * 50 / 115)}
    assert dataclasses.asdict(make_record().accuracy) == base_to_new
    assert make_record(protocol="few_shot_all").metrics == {"all": 65.0}
    for protocol in ("cross_dataset", "domain_generalization"):
        found = make_record(protocol=protocol, targets={"dtd": 4, "ucf101": 9}).metrics
        assert found == {"source": 65.0, "dtd": 40.0, "ucf101": 90.0, "mean": 65.0}


def test_round_trip_of_every_protocol(make_record, tmp_path):
    for changes in ({"protocol": "few_shot_all"}, {"protocol": "cross_dataset", "targets": {"shapes:colors:clean": 3}}):
        record = make_record("coop_cpt", variant="CPT.WEIGHT_CC=0", **changes)
        save(record, tmp_path / "record.json")
        found = load(tmp_path / "record.json")
        assert found == record
        assert list(found.evaluations) == list(record.evaluations)


def test_record_of_schema_2_is_converted():
    """Written by the version before schema 3 (whose v3 is converted in turn): coop_cpt on shapes, 4 shots, 2 epochs."""
    plain, record = json.loads(V2.read_text()), load(V2)
    assert plain["schema"] == 2
    assert (record.method, record.protocol, record.variant) == ("coop_cpt", "base_to_new", "")
    assert dataclasses.asdict(record.accuracy) == pytest.approx(plain["accuracy"])
    for part in ("base", "new"):
        found = record.evaluations[part]
        assert (found.dataset, found.classes, found.split_hash) == ("shapes", part, plain["split_hash"][part])
        assert [list(result) for result in found.per_class] == plain["per_class"][part]
    kept = set(plain) - {"schema", "accuracy", "per_class", "split_hash"}
    again = json.loads(json.dumps(to_plain(record)))
    assert {key: again[key] for key in kept} == {key: plain[key] for key in kept}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": None}, "field schema: says 2, but accuracy, per_class or split_hash"),
        ({"split_hash": {"base": "x"}}, "field schema: says 2, but"),
        ({"accuracy": {"base": 1.0, "new": 2.0}}, "field evaluations.base.accuracy: is 1.0, but the classes give"),
        ({"seed": "1"}, "field seed: expected a whole number"),
        ({"evaluations": 3, "surprise": 1}, "field surprise: is unknown"),
    ],
)
def test_a_damaged_record_of_schema_2_is_refused(tmp_path, change, message):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(json.loads(V2.read_text()) | change))
    with pytest.raises(RecordError, match=message):
        load(path)


# -- training images by class --------------------------------------------------------------------------------------

V3 = Path(__file__).parent / "data" / "record_v3.json"


def v3(counts=(), **changes):
    """A record as the version before schema 4 wrote it, with the configuration that goes with the changes.

    counts: training images that its groups are of, where the changes give others than the file's.
    """
    plain = json.loads(V3.read_text()) | changes
    keys = {"seed": "SEED", "tau": "DATASET.IMBALANCE_TAU", "shots": "DATASET.NUM_SHOTS"}
    if counts:
        tested = [(correct, total) for _, correct, total in plain["evaluations"]["base"]["per_class"]]
        groups = group_accuracies(tested, counts)
        plain["groups"] = {name: dataclasses.asdict(group) for name, group in groups.items()}
    plain["config"] = plain["config"] | {key: plain[name] for name, key in keys.items()} | changes.get("config", {})
    return plain | {"config_hash": config_hash(plain["config"])}


def test_record_of_schema_3_is_converted():
    plain, record = json.loads(V3.read_text()), load(V3)
    assert plain["schema"] == 3
    assert record.class_counts == (16, 12, 9, 6, 5, 4)
    assert (record.counts_from, record.by_schedule, record.bands) == ("derived", False, FEW_SHOT_BANDS)
    again = json.loads(json.dumps(to_plain(record)))
    evaluations = again.pop("evaluations")
    assert {key: again[key] for key in plain if key not in ("schema", "evaluations")} == {
        key: plain[key] for key in plain if key not in ("schema", "evaluations")
    }
    for name, evaluation in plain["evaluations"].items():
        assert {key: evaluations[name][key] for key in evaluation} == evaluation


@pytest.mark.parametrize(
    ("changes", "counts_from"),
    [
        ({}, "derived"),
        ({"dataset": "eurosat"}, "schedule"),  # 90 test images, where EuroSAT has 8,100
        ({"dataset": "shapes:colors:dim"}, "derived"),
        ({"tau": 1.0, "realized_tau": 1.0, "shots": 4, "counts": [4] * 6}, "derived"),
        ({"dataset": "myphotos"}, "schedule"),
        ({"dataset": "cifar100_lt"}, "schedule"),
        ({"dataset": "ucf101 (own split 1)"}, "schedule"),
        ({"shots": 64}, "schedule"),
        ({"realized_tau": 0.5}, "schedule"),  # the data had something else
    ],
)
def test_counts_of_older_records_follow_from_the_schedule_only_where_that_is_certain(changes, counts_from):
    assert from_plain(v3(**changes), "here").counts_from == counts_from


def test_a_published_data_set_whose_test_images_are_all_there_was_trained_on_as_scheduled():
    plain = v3(dataset="eurosat", protocol="few_shot_all")
    tested = [[name, 100, 1350] for name in "abcdef"]
    plain["evaluations"] = {"all": plain["evaluations"]["base"] | {"per_class": tested, "accuracy": 100 * 600 / 8100}}
    plain["worst_class"] = {"name": "a", "accuracy": 100 / 13.5}
    groups = group_accuracies([(100, 1350)] * 6, (16, 12, 9, 6, 5, 4))
    plain["groups"] = {name: dataclasses.asdict(group) for name, group in groups.items()}
    assert from_plain(plain, "here").counts_from == "derived"
    tested[0][2] = 1349
    plain["evaluations"]["all"]["accuracy"] = 100 * 600 / 8099
    assert from_plain(plain, "here").counts_from == "schedule"


def test_fewer_shots_than_the_largest_class_of_the_schedule_cut_an_older_records_counts():
    record = from_plain(v3(shots=8, realized_tau=0.5, counts=(8, 8, 8, 6, 5, 4)), "here")
    assert record.class_counts == (8, 8, 8, 6, 5, 4)
    assert record.counts_from == "derived"


@pytest.mark.parametrize("field", ["protocol", "evaluations", "shots", "tau", "config", "class_order", "seed"])
@pytest.mark.parametrize("value", [None, "x", [], {}, -3])
def test_a_damaged_record_of_schema_3_is_refused_in_words(field, value):
    with pytest.raises(RecordError, match="field "):
        from_plain(json.loads(V3.read_text()) | {field: value}, "here")


def test_groups_of_an_older_record_with_drawn_ranks_follow_its_counts_like_those_of_others():
    """24 classes whose schedule gives several of them as many images: the schedule's ranks are one order of many."""
    plain = v3(class_order="random", config={"DATASET.CLASS_ORDER": "random"})
    tested = [[f"class {label}", label, 24] for label in range(24)]
    base = plain["evaluations"]["base"] | {"per_class": tested, "accuracy": 100 * sum(range(24)) / 24**2}
    plain["evaluations"]["base"], plain["worst_class"] = base, {"name": "class 0", "accuracy": 0.0}
    record = from_plain(plain, "here")
    assert record.counts_from == "derived"
    by_size = sorted(range(24), key=lambda label: (-record.class_counts[label], label))
    assert record.groups["head"].accuracy == pytest.approx(sum(100 * k / 24 for k in by_size[:8]) / 8)
    assert record.groups["tail"].accuracy == pytest.approx(sum(100 * k / 24 for k in by_size[16:]) / 8)


def test_groups_of_an_older_record_that_contradict_its_counts_are_refused():
    plain = v3()
    plain["groups"]["head"]["accuracy"] = 12.5
    with pytest.raises(RecordError, match=r"field groups.head: is .*12\.5"):
        from_plain(plain, "here")


def test_metrics_of_the_classes_trained_on(make_record):
    record = make_record(correct=(9, 8, 7, 6, 5, 4))
    older = dataclasses.replace(record.trained, predicted=None, ece=None)
    assert older.by_class == {
        "balanced_accuracy": pytest.approx(65.0),
        "macro_f1": None,
        "g_mean": pytest.approx(62.7, abs=0.05),
        "ece": None,
    }
    known = dataclasses.replace(record.trained, predicted=(15, 13, 10, 9, 7, 6), ece=12.5)
    assert known.by_class["macro_f1"] == pytest.approx(
        100 / 6 * sum(2 * t / (10 + p) for t, p in zip((9, 8, 7, 6, 5, 4), known.predicted, strict=True))
    )
    assert known.by_class["ece"] == 12.5
