"""Samplers by position, class-balanced and domain sampling, base/new division."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass

import pytest

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.sampling import SampleKey, build_sampler, subsample_classes


@dataclass
class Item:
    label: int
    domain: int = 0
    impath: str = ""
    classname: str = ""


SOURCE = [Item(label=i % 5, domain=i % 3) for i in range(61)]
SAMPLERS = [
    "RandomSampler",
    "SequentialSampler",
    "RandomDomainSampler",
    "SeqDomainSampler",
    "RandomClassSampler",
    "ClassBalancedSampler",
    "SquareRootSampler",
]


def order(name, epoch, skip=0, seed=1):
    sampler = build_sampler(name, SOURCE, seed, batch_size=6, n_domain=2, n_ins=3)
    sampler.set_position(epoch, skip)
    return list(sampler)


@pytest.mark.parametrize("name", SAMPLERS)
def test_order_depends_on_seed_and_epoch_alone(name):
    assert order(name, 4) == order(name, 4)
    assert len(order(name, 0)) == len(build_sampler(name, SOURCE, 1, 6, 2, 3))
    if name != "SequentialSampler":
        assert order(name, 4) != order(name, 5)
        assert order(name, 4) != order(name, 4, seed=2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_length_is_that_of_the_epoch(name):
    sampler = build_sampler(name, SOURCE, 1, batch_size=6, n_domain=2, n_ins=3)
    lengths = []
    for epoch in range(12):
        sampler.set_position(epoch)
        lengths.append(len(list(sampler)))
        assert len(sampler) == sampler.length(epoch) == lengths[-1]
    assert [sampler.length(epoch) for epoch in range(12)] == lengths
    assert sampler.even == (len(set(lengths)) == 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_skipped_items_are_the_first_ones(name):
    assert order(name, 3, skip=12) == order(name, 3)[12:]


def test_random_sampler_is_a_permutation():
    assert sorted(order("RandomSampler", 2)) == list(range(61))


def test_domain_samplers_share_each_batch_equally():
    for name, domains in (("RandomDomainSampler", 2), ("SeqDomainSampler", 3)):
        indices = order(name, 1)
        assert len(set(indices)) == len(indices)
        for start in range(0, len(indices), 6):
            counts = Counter(SOURCE[i].domain for i in indices[start : start + 6])
            assert sorted(counts.values()) == [6 // domains] * domains


def test_class_sampler_gives_each_class_of_a_batch_its_share():
    indices = order("RandomClassSampler", 1)
    assert indices
    for start in range(0, len(indices), 6):
        counts = Counter(SOURCE[i].label for i in indices[start : start + 6])
        assert sorted(counts.values()) == [3, 3]


def test_class_sampler_repeats_items_of_small_classes():
    sampler = build_sampler(
        "RandomClassSampler", [Item(0), Item(1), Item(1), Item(1)], 0, batch_size=4, n_ins=2
    )
    assert Counter(sampler)[0] == 2


@pytest.mark.parametrize(("name", "shares"), [("ClassBalancedSampler", [1, 1, 1]), ("SquareRootSampler", [10, 5, 1])])
def test_long_tail_samplers_draw_classes_by_a_power_of_their_size(name, shares):
    source = [Item(0)] * 100 + [Item(2)] * 25 + [Item(5)]
    drawn = Counter()
    for epoch in range(200):
        sampler = build_sampler(name, source, 3)
        sampler.set_position(epoch)
        indices = list(sampler)
        assert len(indices) == len(source)
        drawn.update(indices)
    total = sum(drawn.values())
    for label, share in zip((0, 2, 5), shares, strict=True):
        found = sum(count for index, count in drawn.items() if source[index].label == label) / total
        expected = share / sum(shares)
        assert abs(found - expected) < 5 * (expected * (1 - expected) / total) ** 0.5
    assert len({drawn[index] > 0 for index in range(len(source))}) == 1, "every item is drawn at some time"


@pytest.mark.parametrize(
    ("name", "batch", "domains", "instances"),
    [
        ("NoSampler", 6, 2, 3),
        ("RandomDomainSampler", 5, 2, 3),
        ("RandomDomainSampler", 8, 4, 3),
        ("RandomClassSampler", 2, 2, 3),
        ("RandomClassSampler", 60, 2, 2),
    ],
)
def test_impossible_samplers_are_refused(name, batch, domains, instances):
    with pytest.raises(ConfigError):
        build_sampler(name, SOURCE, 0, batch, domains, instances)


def test_keys_carry_their_epoch_through_pickling():
    key = pickle.loads(pickle.dumps(SampleKey(7, 3)))
    assert (key, key.epoch) == (7, 3)
    assert ["a", "b"][SampleKey(1, 9)] == "b"


@pytest.mark.parametrize("classes", [1, 2, 5, 6])
def test_base_and_new_halves(classes):
    train = [Item(label=i % classes, classname=str(i % classes)) for i in range(4 * classes)]
    test = [Item(label=i, classname=str(i)) for i in range(classes)]
    half = -(-classes // 2)
    base_train, base_test = subsample_classes(train, test, subsample="base")
    (new_test,) = subsample_classes(test, subsample="new")
    assert [(d.label, d.classname) for d in base_test] == [(i, str(i)) for i in range(half)]
    assert [(d.label, d.classname) for d in new_test] == [(i, str(i + half)) for i in range(classes - half)]
    assert len(base_train) == 4 * half
    assert subsample_classes(train, test, subsample="all") == [train, test]


def test_division_counts_classes_of_all_sources():
    few = [Item(label=0), Item(label=3)]
    everything = [Item(label=i, classname=str(i)) for i in range(4)]
    train, test = subsample_classes(few, everything, subsample="new")
    assert [d.label for d in train] == [1]
    assert [d.classname for d in test] == ["2", "3"]


def test_unknown_division_is_refused():
    with pytest.raises(ConfigError, match="half"):
        subsample_classes([], subsample="half")
