"""Metrics of unequal classes against scikit-learn, closed forms, and what is refused."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin import metrics
from cpt_plugin.errors import ConfigError

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle of this file")


def counted(truth, predicted, classes):
    tested = [(int(((truth == c) & (predicted == c)).sum()), int((truth == c).sum())) for c in range(classes)]
    return tested, np.bincount(predicted, minlength=classes).tolist()


@given(data=st.data(), classes=st.integers(2, 9), images=st.integers(1, 60))
@settings(deadline=None, max_examples=150)
def test_counts_give_what_scikit_learn_gives_of_the_images(data, classes, images):
    labels = st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)
    truth, predicted = np.array(data.draw(labels)), np.array(data.draw(labels))
    tested, claimed = counted(truth, predicted, classes)
    present = np.unique(truth)
    recalls = sklearn.recall_score(truth, predicted, average=None, labels=present, zero_division=0)
    assert metrics.balanced_accuracy(tested) == pytest.approx(100 * recalls.mean())
    assert metrics.g_mean(tested) == pytest.approx(100 * np.prod(recalls) ** (1 / len(present)))
    wanted = sklearn.f1_score(truth, predicted, average="macro", labels=present, zero_division=0)
    assert metrics.macro_f1(tested, claimed) == pytest.approx(100 * wanted)


@given(data=st.data(), images=st.integers(1, 80), bins=st.integers(1, 20))
@settings(deadline=None, max_examples=150)
def test_calibration_error_is_the_weighted_gap_of_each_bin(data, images, bins):
    sure = np.array(data.draw(st.lists(st.floats(0, 1), min_size=images, max_size=images)))
    hits = np.array(data.draw(st.lists(st.booleans(), min_size=images, max_size=images)))
    wanted = 0.0
    for b in range(1, bins + 1):
        inside = (np.ceil(sure * bins) == b) | ((b == 1) & (sure == 0))
        if inside.any():
            wanted += inside.mean() * abs(hits[inside].mean() - sure[inside].mean())
    found = metrics.expected_calibration_error(sure, hits, bins)
    assert found == pytest.approx(100 * wanted, abs=1e-9)
    assert 0 <= found <= 100


def test_a_coin_that_says_one_half_is_calibrated_and_certain_errors_are_not():
    assert metrics.expected_calibration_error([0.5, 0.5], [True, False]) == 0
    assert metrics.expected_calibration_error([1.0, 1.0], [False, False]) == 100
    assert metrics.expected_calibration_error([], []) is None
    assert metrics.expected_calibration_error([float("nan")], [True]) is None


def test_one_class_that_is_never_right_makes_the_geometric_mean_zero():
    assert metrics.g_mean([(10, 10), (0, 10)]) == 0
    assert metrics.balanced_accuracy([(10, 10), (0, 10)]) == 50


def test_classes_without_test_images_count_nowhere():
    assert metrics.balanced_accuracy([(1, 2), (0, 0)]) == 50
    assert metrics.g_mean([(1, 2), (0, 0)]) == pytest.approx(50)
    assert metrics.macro_f1([(1, 2), (0, 0)], [1, 1]) == pytest.approx(200 / 3)
    assert [metrics.balanced_accuracy([]), metrics.g_mean([(0, 0)]), metrics.macro_f1([], [])] == [None] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.macro_f1([(1, 1)], [1, 0]), "1 classes tested, but 2 counts"),
        (lambda: metrics.macro_f1([(1, 1), (2, 2)], [1, 1]), "class 1 is predicted less often"),
        (lambda: metrics.class_accuracy(3, 2), "3 correct of 2"),
        (lambda: metrics.expected_calibration_error([0.1], [True, False]), "same length"),
        (lambda: metrics.expected_calibration_error([1.5], [True]), "no probabilities"),
        (lambda: metrics.expected_calibration_error([0.5], [True], bins=0), "at least 1"),
    ],
)
def test_contradictions_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_examples_in_docstrings():
    result = doctest.testmod(metrics)
    assert result.attempted >= 4
    assert result.failed == 0
