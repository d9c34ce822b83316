"""Where time went: nested sections, shares that sum to 100, long epochs, copies, and events of a device."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_plugin import profiling
from cpt_plugin.profiling import CudaClock, HostClock, Profile, profile_of


class ManualClock(HostClock):
    """A clock that a test moves; ``is_behind``: as on a device that has not got to any moment yet."""

    def __init__(self):
        self.time, self.waited, self.is_behind = 0.0, [], False

    def now(self):
        return self.time

    def passed(self, moment):
        return not self.is_behind

    def wait(self, moment):
        self.waited.append(moment)


@pytest.fixture
def clock():
    return ManualClock()


def spend(profile, clock, *tree):
    """Numbers are seconds that pass, pairs are sections with what is in them."""
    for part in tree:
        if isinstance(part, tuple):
            with profile.section(part[0]):
                spend(profile, clock, *part[1:])
        else:
            clock.time += part


def raise_inside(profile, clock):
    with profile.section("image"):
        clock.time += 1
        raise KeyError


def test_a_moment_counts_for_the_innermost_section(clock):
    profile = Profile(clock)
    with profile.running():
        spend(profile, clock, 1, ("data", 2, ("image", 4), 8, ("image", 16, ("text", 32))), 64, ("data", 128))
    assert profile.seconds == {"other": 65, "data": 138, "image": 20, "text": 32}
    assert profile.total == 255 == clock.time
    assert clock.waited == [255]


def test_outside_of_a_run_nothing_counts_and_a_run_begins_anew(clock):
    profile = Profile(clock)
    spend(profile, clock, ("data", 5))
    with profile.running():
        spend(profile, clock, ("data", 1), 3)
    spend(profile, clock, ("data", 7), 7)
    assert profile.seconds == {"data": 1, "other": 3}
    with profile.running():
        spend(profile, clock, ("text", 2))
    assert profile.seconds == {"text": 2, "other": 0}


def test_a_section_ends_by_an_error_and_so_does_the_run(clock):
    profile = Profile(clock)
    with profile.running():
        with pytest.raises(KeyError):
            raise_inside(profile, clock)
        clock.time += 2
    assert profile.seconds == {"image": 1, "other": 2}
    with pytest.raises(KeyError), profile.running():
        raise_inside(profile, clock)
    assert len(clock.waited) == 1
    spend(profile, clock, ("image", 4))
    assert profile.seconds == {}


@given(st.dictionaries(st.sampled_from([*profiling.KINDS, "other", "own"]), st.floats(1e-6, 1e6), min_size=1))
def test_shares_sum_to_100_and_are_within_a_tenth(seconds):
    profile = Profile()
    profile.seconds = seconds
    shares = profile.shares()
    assert sum(round(10 * share) for share in shares.values()) == 1000
    assert shares.keys() == seconds.keys() | {"other"}
    assert list(shares)[-1] == "other"
    for name, value in seconds.items():
        assert abs(shares[name] - 100 * value / sum(seconds.values())) < 0.1 + 1e-9


def test_line_shows_kinds_in_a_fixed_order(clock):
    profile = Profile(clock)
    assert str(profile) == ""
    assert profile.shares() == {}
    with profile.running():
        spend(profile, clock, ("backward", 1), ("own", 1), ("data", 1))
    assert str(profile) == "data 33.4 % backward 33.3 % own 33.3 % other 0.0 %"


@pytest.mark.parametrize("is_behind", [False, True])
def test_long_runs_are_summed_up_in_between_unless_the_device_is_behind(clock, monkeypatch, is_behind):
    monkeypatch.setattr(profiling, "PENDING", 16)
    clock.is_behind, profile = is_behind, Profile(clock)
    with profile.running():
        for _ in range(100):
            spend(profile, clock, 1, ("image", 2, ("text", 3)))
        assert (len(profile._moments) > 100) == is_behind
    assert profile.seconds == {"other": 100, "image": 200, "text": 300}


def test_copies_measure_nothing(clock):
    profile = Profile(clock)
    with profile.running():
        copies = [copy.deepcopy(profile), pickle.loads(pickle.dumps(profile))]
        for one in copies:
            spend(one, clock, ("data", 1))
            assert one.seconds == {}
    assert profile.seconds == {"other": 2}


def test_trainers_without_a_profile_get_one_at_rest(clock):
    class Foreign:
        pass

    trainer = Foreign()
    for own in (None, "a profile of their own"):
        trainer.profile = own
        found = profile_of(trainer)
        spend(found, clock, ("regularizer", 1))
        assert found.seconds == {}
    trainer.profile = Profile()
    assert profile_of(trainer) is trainer.profile


def test_device_times_come_from_events_that_are_waited_for_once(monkeypatch):
    """Events as those of CUDA: recorded in order, in milliseconds, readable after a wait only."""
    times, waits = iter([10.0, 20.0, 50.0, 90.0]), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(times)

        def query(self):
            return False

        def synchronize(self):
            waits.append(self.time)

        def elapsed_time(self, end):
            assert waits == [90.0]
            return end.time - self.time

    monkeypatch.setattr(profiling.torch.cuda, "Event", Event)
    profile = Profile(CudaClock())
    with profile.running(), profile.section("image"):
        pass
    assert profile.seconds == pytest.approx({"other": 0.05, "image": 0.03})
