"""Training images of evaluated classes are found by name, whatever the order; names that do not tell give none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cpt_plugin.trained import counts_by_name

NAMES = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8, unique=True)


@given(trained=NAMES, evaluated=NAMES, data=st.data())
def test_every_class_has_the_images_of_its_name(trained, evaluated, data):
    counts = data.draw(st.lists(st.integers(0, 20), min_size=len(trained), max_size=len(trained)))
    found = counts_by_name(evaluated, trained, counts)
    assert len(found) == len(evaluated)
    for name, count in zip(evaluated, found, strict=True):
        assert count == (counts[trained.index(name)] if name in trained else None)


def test_the_same_list_is_matched_by_place_though_names_occur_twice():
    assert counts_by_name(["crane", "crane", "dog"], ["crane", "crane", "dog"], [9, 2, 4]) == [9, 2, 4]


def test_a_name_of_two_trained_classes_tells_only_a_number_that_both_have():
    assert counts_by_name(["dog", "crane"], ["crane", "crane", "dog"], [5, 5, 4]) == [4, 5]
    assert counts_by_name(["dog", "crane"], ["crane", "crane", "dog"], [9, 2, 4]) == [4, None]


def test_a_name_that_is_evaluated_more_often_than_trained_does_not_tell_which_was_trained():
    assert counts_by_name(["missile", "a", "missile"], ["missile", "a"], [5, 3]) == [None, 3, None]
    assert counts_by_name(["a", "missile", "missile"], ["missile", "missile", "a"], [5, 5, 3]) == [3, 5, 5]


@given(data=st.data())
def test_no_image_is_counted_twice(data):
    names = st.lists(st.sampled_from("abc"), min_size=1, max_size=6)
    trained, evaluated = data.draw(names), data.draw(names)
    counts = data.draw(st.lists(st.integers(0, 2), min_size=len(trained), max_size=len(trained)))
    found = counts_by_name(evaluated, trained, counts)
    for name in set(evaluated):
        here = sum(count or 0 for own, count in zip(evaluated, found, strict=True) if own == name)
        assert here <= sum(count for own, count in zip(trained, counts, strict=True) if own == name)
