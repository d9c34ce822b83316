"""Mean, std, t-interval, tests, corrections and harmonic mean against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special
from scipy import stats as reference

from cpt_plugin.errors import ConfigError
from cpt_plugin.results.stats import bonferroni, harmonic_mean, holm, p_value, summarize, t_quantile, t_tails

PERCENT = st.floats(0, 100)


@given(probability=st.floats(0.51, 0.9995), degrees=st.integers(1, 300))
@settings(deadline=None, max_examples=200)
def test_t_quantile_is_scipys(probability, degrees):
    assert t_quantile(probability, degrees) == pytest.approx(reference.t.ppf(probability, degrees), rel=1e-9)


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.7062), (2, 4.30265), (4, 2.77645)])
def test_t_quantile_printed_in_every_textbook(degrees, value):
    assert t_quantile(0.975, degrees) == pytest.approx(value, abs=5e-5)


def test_t_quantile_at_one_half_is_zero():
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("probability", "degrees"), [(0.4, 3), (1.0, 3), (0.975, 0)])
def test_no_t_quantile_outside_its_range(probability, degrees):
    with pytest.raises(ConfigError, match="no t quantile"):
        t_quantile(probability, degrees)


@given(values=st.lists(PERCENT, min_size=2, max_size=12))
@settings(deadline=None, max_examples=200)
def test_summary_is_numpys_and_scipys(values):
    found = summarize(values)
    assert found is not None
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-10)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-10)
    error = reference.sem(values)
    margin = error * reference.t.ppf(0.975, len(values) - 1)
    assert found.interval == pytest.approx((np.mean(values) - margin, np.mean(values) + margin), abs=1e-8)


@given(values=st.lists(PERCENT, min_size=1, max_size=8), data=st.data())
@settings(deadline=None, max_examples=200)
def test_summary_has_the_same_bits_in_any_order(values, data):
    assert summarize(values) == summarize(data.draw(st.permutations(values)))


def test_one_seed_has_no_spread_and_no_seed_no_summary():
    found = summarize([65])
    assert found is not None
    assert (found.mean, found.std, found.interval) == (65.0, None, None)
    assert summarize([]) is None


@given(base=st.floats(0.01, 100), new=st.floats(0.01, 100))
@settings(deadline=None, max_examples=200)
def test_harmonic_mean_is_scipys(base, new):
    assert harmonic_mean(base, new) == pytest.approx(reference.hmean([base, new]), rel=1e-12)


def test_harmonic_mean_of_zero():
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(80, 0) == 0


@given(t=st.floats(-50, 50), degrees=st.integers(1, 300))
@settings(deadline=None, max_examples=200)
def test_tails_are_scipys(t, degrees):
    """By its incomplete beta function: its `t.sf` is off by 6e-10 at t = 1e-9."""
    expected = 1 - special.betainc(0.5, degrees / 2, t * t / (degrees + t * t))
    assert t_tails(t, degrees) == pytest.approx(expected, abs=1e-12)
    if abs(t) > 0.01:
        assert t_tails(t, degrees) == pytest.approx(2 * reference.t.sf(abs(t), degrees), abs=1e-11)


def test_tails_at_the_ends_and_outside():
    assert (t_tails(0, 3), t_tails(float("inf"), 4)) == (1.0, 0.0)
    for t, degrees in ((float("nan"), 3), (1.0, 0)):
        with pytest.raises(ConfigError, match="no probability of t"):
            t_tails(t, degrees)


@given(values=st.lists(PERCENT, min_size=2, max_size=12), confidence=st.floats(0.5, 0.999))
@settings(deadline=None, max_examples=100)
def test_p_and_intervals_of_any_level_are_scipys(values, confidence):
    assume(np.std(values) > 1e-3)
    oracle = reference.ttest_1samp(values, 0)
    found = summarize(values, confidence)
    assert p_value(found) == pytest.approx(oracle.pvalue, abs=1e-10)
    assert found.interval == pytest.approx(tuple(oracle.confidence_interval(confidence)), rel=1e-8, abs=1e-8)


def test_no_p_without_a_spread():
    assert p_value(None) is p_value(summarize([3])) is p_value(summarize([3, 3])) is None


def test_corrections_by_hand():
    assert bonferroni([0.01, 0.04, 0.5], 3) == pytest.approx([0.03, 0.12, 1.0])
    assert bonferroni([0.01], 20) == pytest.approx([0.2])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, 0.021]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12), alpha=st.floats(0.001, 0.5))
@settings(deadline=None, max_examples=200)
def test_holm_rejects_what_stepping_down_rejects(values, alpha):
    """Reject from the smallest up, p_(k) against alpha / (n - k), until the first that is not."""
    rejected, order = set(), np.argsort(values, kind="stable")
    for place, index in enumerate(order):
        if values[index] * (len(values) - place) >= alpha:
            break
        rejected.add(int(index))
    assert {index for index, value in enumerate(holm(values)) if value < alpha} == rejected


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_holm_is_the_running_maximum_in_numpy(values):
    order = np.argsort(values, kind="stable")
    scaled = np.array(values)[order] * np.arange(len(values), 0, -1)
    oracle = np.empty(len(values))
    oracle[order] = np.minimum(1, np.maximum.accumulate(scaled))
    assert holm(values) == pytest.approx(oracle, abs=1e-15)
