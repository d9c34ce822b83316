"""Groups by training frequency against numpy, bands at their borders, worst class."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.errors import ConfigError
from cpt_plugin.results.groups import (
    LONG_TAILED_BANDS,
    GroupAccuracy,
    WorstClass,
    group_accuracies,
    ranks_of,
    worst_class,
)


@given(data=st.data(), num_classes=st.integers(1, 40))
@settings(deadline=None, max_examples=200)
def test_groups_are_numpy_means_over_masks(data, num_classes):
    totals = data.draw(st.lists(st.integers(1, 30), min_size=num_classes, max_size=num_classes))
    correct = [data.draw(st.integers(0, total)) for total in totals]
    counts = data.draw(st.lists(st.integers(0, 20), min_size=num_classes, max_size=num_classes))
    found = group_accuracies(list(zip(correct, totals, strict=True)), counts)

    accuracy = 100 * np.array(correct) / np.array(totals)
    thirds = np.array_split(np.argsort(-np.array(counts), kind="stable"), 3)
    images = np.array(counts)
    wanted = dict(zip(("head", "mid", "tail"), thirds, strict=True)) | {
        "many": np.flatnonzero(images >= 10),
        "medium": np.flatnonzero((images > 3) & (images < 10)),
        "few": np.flatnonzero(images < 4),
    }
    assert list(found) == list(wanted)
    for name, members in wanted.items():
        assert found[name].classes == len(members)
        if len(members):
            assert found[name].accuracy == pytest.approx(accuracy[members].mean(), abs=1e-10)
        else:
            assert found[name].accuracy is None


@pytest.mark.parametrize(
    ("images", "band"), [(1, "few"), (3, "few"), (4, "medium"), (9, "medium"), (10, "many"), (16, "many")]
)
def test_borders_of_the_bands(images, band):
    found = group_accuracies([(1, 2)], [images])
    assert found[band] == GroupAccuracy(1, 50.0)
    assert sum(found[name].classes for name in ("many", "medium", "few")) == 1


def test_a_single_class_is_the_head():
    found = group_accuracies([(1, 4)], [16])
    assert (found["head"], found["mid"]) == (GroupAccuracy(1, 25.0), GroupAccuracy(0, None))


def test_groups_weigh_classes_alike_whatever_their_test_images():
    assert group_accuracies([(1, 1), (0, 99)], [16, 16])["many"] == GroupAccuracy(2, 50.0)


def test_an_untested_class_belongs_to_no_group_and_is_never_the_worst():
    tested = [(0, 0), (1, 2), (1, 2)]
    assert group_accuracies(tested, [16, 16, 16])["head"] == GroupAccuracy(0, None)
    assert worst_class(["a", "b", "c"], tested) == WorstClass("b", 50.0)
    assert worst_class(["a"], [(0, 0)]) is None


def test_contradictory_input_is_refused():
    with pytest.raises(ConfigError, match="2 classes tested, 1 training counts"):
        group_accuracies([(1, 1), (1, 1)], [16])
    with pytest.raises(ConfigError, match="3 correct of 2"):
        group_accuracies([(3, 2)], [16])


def test_bands_of_long_tailed_sets_at_their_borders():
    counts = [101, 100, 20, 19]
    found = group_accuracies([(1, 1), (1, 2), (0, 2), (1, 4)], counts, LONG_TAILED_BANDS)
    assert {name: found[name] for name in ("many", "medium", "few")} == {
        "many": GroupAccuracy(1, 100.0), "medium": GroupAccuracy(2, 25.0), "few": GroupAccuracy(1, 25.0),
    }  # fmt: skip


@given(counts=st.lists(st.integers(0, 5), max_size=30))
def test_ranks_sort_the_counts(counts):
    ranks = ranks_of(counts)
    by_rank = sorted(range(len(counts)), key=ranks.__getitem__)
    assert sorted(ranks) == list(range(len(counts)))
    assert [counts[label] for label in by_rank] == sorted(counts, reverse=True)
    assert all(a < b for a, b in pairwise(by_rank) if counts[a] == counts[b]), "ties by label"
