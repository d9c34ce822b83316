"""Which evaluations a protocol asks for, by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cpt_plugin import worlds
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import parse_dataset
from cpt_plugin.protocols import DATASETS_11, HEADLINES, PROTOCOLS, TRANSFER, parse_protocol, tasks


def names(protocol, dataset):
    return [task.name for task in tasks(protocol, dataset)]


def test_tasks_of_a_single_data_set():
    assert [(t.name, t.classes, t.seen) for t in tasks("base_to_new", "dtd")] == [
        ("base", "base", True), ("new", "new", False)
    ]  # fmt: skip
    assert [(t.name, t.dataset, t.classes, t.seen) for t in tasks("few_shot_all", "dtd")] == [
        ("all", "dtd", "all", True)
    ]


def test_from_imagenet_to_the_ten_others_and_to_its_four_variants():
    assert names("cross_dataset", "imagenet") == ["source", *DATASETS_11[1:]]
    assert len(DATASETS_11) == 11
    assert names("domain_generalization", "imagenet") == [
        "source", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"
    ]  # fmt: skip


def test_from_a_world_to_the_other_class_sets_and_to_the_other_domains():
    targets = [worlds.parse_world(name) for name in names("cross_dataset", "shapes")[1:]]
    assert {target.class_set for target in targets} == {*worlds.CLASS_SETS} - {worlds.DEFAULT_CLASS_SET}
    assert {target.domain for target in targets} == {"clean"}
    targets = [worlds.parse_world(name) for name in names("domain_generalization", "shapes:colors:rot")[1:]]
    assert {target.class_set for target in targets} == {"colors"}
    assert [target.domain for target in targets] == [domain for domain in worlds.DOMAINS if domain != "rot"]
    for name in (*names("cross_dataset", "shapes")[1:], *names("domain_generalization", "shapes")[1:]):
        assert parse_dataset(name) == name


def test_only_classes_of_the_training_are_seen():
    for protocol in TRANSFER:
        source, *targets = tasks(protocol, "shapes")
        assert (source.name, source.dataset, source.seen) == ("source", "shapes", True)
        assert {target.seen for target in targets} == {protocol == "domain_generalization"}
        assert all(target.classes == "all" for target in targets)


def test_every_protocol_has_a_headline():
    assert set(HEADLINES) == set(PROTOCOLS)


@pytest.mark.parametrize("protocol", TRANSFER)
def test_a_source_without_targets_is_refused(protocol):
    with pytest.raises(ConfigError, match=rf"{protocol} trains on shapes or .*, not on 'imagenet_lt'"):
        tasks(protocol, "imagenet_lt")


def test_unknown_protocol_names_the_nearest():
    assert parse_protocol("few_shot_all") == "few_shot_all"
    with pytest.raises(ConfigError, match="unknown protocol 'cross'; nearest: 'cross_dataset'"):
        parse_protocol("cross")


def test_standard_library_only():
    code = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; import cpt_plugin.protocols"
    subprocess.run([sys.executable, "-S", "-s", "-c", code], check=True)
