"""Long-tailed subsets: published counts, exact rational oracle, prefixes, nesting, determinism."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.long_tail import class_ranks, long_tail_subset, most_per_class, shot_counts

TAUS = st.integers(1, 100).map(lambda percent: percent / 100)


@dataclass(frozen=True)
class Image:
    label: int
    serial: int


@st.composite
def training_sets(draw: st.DrawFn) -> list[Image]:
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=12))
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return [Image(label, serial) for serial, label in enumerate(draw(st.permutations(labels)))]


def exact_counts(num_classes: int, tau: float, most: int) -> list[int]:
    """n is floor(most * tau^(r/s)) iff n^s <= most^s * tau^r < (n+1)^s: decided with whole numbers only."""
    span, ratio, counts = num_classes - 1, Fraction(str(tau)), []
    for rank in range(num_classes):
        count = most
        while span and count > 1 and Fraction(count) ** span > Fraction(most) ** span * ratio**rank:
            count -= 1
        counts.append(count)
    return counts


@pytest.mark.parametrize(
    ("tau", "first", "last", "mean"), [(0.25, 16, 4, 8.24), (0.06, 16, 1, 5.04), (1.0, 16, 16, 16.0)]
)
def test_counts_of_fifty_classes_as_in_the_protocol(tau, first, last, mean):
    counts = shot_counts(50, tau)
    assert (counts[0], counts[-1]) == (first, last)
    assert sum(counts) / 50 == pytest.approx(mean, abs=1e-12)


def test_thirteen_of_fifty_classes_have_one_image_at_a_sixteenth():
    assert shot_counts(50, 1 / 16).count(1) == 13


@given(num_classes=st.integers(1, 60), tau=TAUS, most=st.integers(1, 64))
@example(num_classes=4, tau=0.125, most=8)  # 8, 4, 2, 1: exact powers
@example(num_classes=3, tau=0.01, most=100)
@example(num_classes=2, tau=0.29, most=100)  # 100 * 0.29 is 28.999... in floating point
@settings(deadline=None, max_examples=200)
def test_counts_agree_with_rational_arithmetic(num_classes, tau, most):
    assert shot_counts(num_classes, tau, most) == exact_counts(num_classes, tau, most)


def test_one_class_keeps_the_maximum():
    assert shot_counts(1, 0.06) == [16]


def test_below_one_sixteenth_only_the_decay_changes():
    steep, flat = shot_counts(50, 0.01), shot_counts(50, 0.05)
    assert min(steep) == min(flat) == 1
    assert sum(steep) < sum(flat)
    images = [Image(label, serial) for label in range(50) for serial in range(16)]
    _, tail = long_tail_subset(images, 0.01)
    assert tail.realized_tau == 1 / 16
    assert "tau 0.01 asked, 0.0625 realized" in tail.describe()


@given(images=training_sets(), tau=TAUS, order=st.sampled_from(["label", "random"]), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=200)
def test_each_class_keeps_a_prefix_of_the_promised_length(images, tau, order, seed):
    kept, tail = long_tail_subset(images, tau, order=order, seed=seed)
    given_by_class, kept_by_class = defaultdict(list), defaultdict(list)
    for image in images:
        given_by_class[image.label].append(image)
    for image in kept:
        kept_by_class[image.label].append(image)
    wanted = shot_counts(len(given_by_class), tau)
    for label, originals in given_by_class.items():
        expected = len(originals) if tau == 1 else min(len(originals), wanted[tail.ranks[label]])
        assert kept_by_class[label] == originals[:expected]
        assert tail.counts[label] == expected >= 1
    assert [image.serial for image in kept] == sorted(image.serial for image in kept)
    sizes = [len(members) for members in kept_by_class.values()]
    assert tail.realized_tau == min(sizes) / max(sizes)


@given(images=training_sets(), one=TAUS, other=TAUS, order=st.sampled_from(["label", "random"]))
@settings(deadline=None, max_examples=200)
def test_smaller_tau_keeps_a_subset(images, one, other, order):
    small, _ = long_tail_subset(images, min(one, other), order=order, seed=3)
    large, _ = long_tail_subset(images, max(one, other), order=order, seed=3)
    assert set(small) <= set(large)


def test_balanced_is_the_identity_even_above_the_maximum():
    images = [Image(label, serial) for serial in range(40) for label in (0, 1)]
    kept, tail = long_tail_subset(images, 1.0)
    assert kept == images
    assert (tail.realized_tau, tail.counts) == (1.0, (40, 40))


def test_random_order_is_a_permutation_fixed_by_its_seed_and_leaves_the_global_generator_alone():
    random.seed(0)
    untouched = random.getstate()
    first, again, other = (class_ranks(30, "random", seed) for seed in (1, 1, 2))
    assert random.getstate() == untouched
    assert first == again != other
    assert sorted(first) == sorted(other) == list(range(30))
    assert class_ranks(8, "random", 1) == [5, 4, 7, 2, 6, 3, 1, 0]  # a draw that must never change


def test_label_order_gives_the_head_to_the_first_label():
    assert class_ranks(4) == [0, 1, 2, 3]
    _, tail = long_tail_subset([Image(label, 0) for label in (1, 0) for _ in range(16)], 0.25)
    assert tail.counts == (16, 4)


def test_a_class_without_images_keeps_its_place():
    images = [Image(label, serial) for label in (0, 2) for serial in range(16)]
    assert long_tail_subset(images, 0.25)[1].counts == (16, 0, 4)
    kept, tail = long_tail_subset(images, 0.25, num_classes=4)
    assert tail.counts == (16, 0, 6, 0)
    assert tail.realized_tau == 6 / 16
    assert len(kept) == 22


def test_items_of_any_shape_with_their_own_label_function():
    pairs = [("a", 0), ("b", 0), ("c", 1), ("d", 1)]
    kept, _ = long_tail_subset(pairs, 0.5, max_per_class=2, label=lambda pair: pair[1])
    assert kept == [("a", 0), ("b", 0), ("c", 1)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.sampled_from([1.0, 0.5, 0.25, 0.06]))
def test_without_a_number_the_largest_class_is_the_first_rank(sizes, tau):
    items = [Image(label, index) for label, size in enumerate(sizes) for index in range(size)]
    _, info = long_tail_subset(items, tau, max_per_class=None)
    wanted = sizes if tau == 1 else shot_counts(len(sizes), tau, max(sizes))
    assert info.counts == tuple(map(min, sizes, wanted))


@pytest.mark.parametrize(
    ("given", "shots", "expected"), [(0, 8, 8), (0, 16, 16), (16, 8, 16), (0, -1, None), (0, 0, None), (5, -1, 5)]
)
def test_the_most_images_of_a_class_follow_the_shots_unless_given(given, shots, expected):
    assert most_per_class(SimpleNamespace(MAX_PER_CLASS=given, NUM_SHOTS=shots)) == expected


def test_a_negative_number_of_images_is_refused():
    with pytest.raises(ConfigError, match="MAX_PER_CLASS is -1: give at least 1, or 0"):
        most_per_class(SimpleNamespace(MAX_PER_CLASS=-1, NUM_SHOTS=8))


@pytest.mark.parametrize("tau", [0.0, -0.5, 1.0001, float("nan"), float("inf")])
def test_tau_outside_its_range_is_refused(tau):
    with pytest.raises(ConfigError, match="IMBALANCE_TAU"):
        shot_counts(3, tau)
    with pytest.raises(ConfigError, match="IMBALANCE_TAU"):
        long_tail_subset([Image(0, 0)], tau)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="CLASS_ORDER is 'size'"):
        class_ranks(3, "size")
    with pytest.raises(ConfigError, match="MAX_PER_CLASS is 0"):
        shot_counts(3, 0.5, 0)
    with pytest.raises(ConfigError, match="at least one class"):
        shot_counts(0, 0.5)
    with pytest.raises(DataError, match="empty"):
        long_tail_subset([], 0.5)
    for label in (0.5, "1", None):
        with pytest.raises(DataError, match=f"the label {label!r} is no whole number"):
            long_tail_subset([Image(label, 0)], 0.5)
    with pytest.raises(DataError, match=r"labels \[2\] lie outside 0..1"):
        long_tail_subset([Image(0, 0), Image(2, 1)], 0.5, num_classes=2)
    with pytest.raises(DataError, match=r"labels \[-1\]"):
        long_tail_subset([Image(0, 0), Image(-1, 1)], 0.5)
