"""Which classes stand against each image in DPC's batches."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers._negatives import hard_negatives


def logits_of(*rankings: str, classes: int) -> torch.Tensor:
    """Logits that rank the classes as the digits of each word do; those not named come last."""
    rows = torch.full((len(rankings), classes), -100.0)
    for row, ranking in zip(rows, rankings, strict=True):
        for place, digit in enumerate(ranking):
            row[int(digit)] = -place
    return rows


def negatives(rankings, labels, top_k, classes=10, with_images=None, seed=0):
    logits = logits_of(*rankings, classes=classes)
    free = range(classes) if with_images is None else with_images
    return hard_negatives(logits, labels, top_k, free, random.Random(seed))


@pytest.mark.parametrize(
    ("rankings", "labels", "top_k", "expected"),
    [
        (["0123"], [0], 4, [[1, 2, 3]]),
        (["1203"], [0], 4, [[1, 2, 3]]),
        (["1234"], [0], 4, [[1, 2, 3]]),
        (["01235", "41267"], [0, 4], 5, [[1, 2, 3, 5], [6, 7]]),
        (["0123", "1045"], [0, 1], 4, [[2, 3], [4, 5]]),
        (["0123", "0456"], [0, 0], 4, [[1, 2, 3], [4, 5, 6]]),
    ],
    ids=["own first", "own third", "own absent: the last falls", "earlier image takes", "labels taken", "equal labels"],
)
def test_worked_cases(rankings, labels, top_k, expected):
    assert negatives(rankings, labels, top_k) == expected


def test_classes_are_filled_up_to_two_without_repetition():
    found = negatives(["012", "012", "012"], [0, 1, 2], 3)
    flat = [c for own in found for c in own]
    assert [len(own) for own in found] == [2, 2, 2]
    assert len(set(flat)) == 6
    assert not {0, 1, 2} & set(flat)


def test_random_ones_are_uniform_over_the_free_classes():
    """Class 0 included: one of 6 classes fills up, 4000 times."""
    counts = Counter(c for seed in range(4000) for c in negatives(["567"], [5], 2, classes=8, seed=seed)[0][1:])
    assert set(counts) == {0, 1, 2, 3, 4, 7}
    expected = 4000 / 6
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 20.5, "chi-square, 5 degrees, p = 0.001"


def test_classes_without_images_are_left_out():
    assert negatives(["0123"], [0], 4, with_images={0, 2, 3, 4}) == [[2, 3]]
    assert negatives(["0123"], [0], 4, with_images={0, 2}) == [[2]]


@pytest.mark.parametrize(("classes", "labels"), [(2, [0]), (2, [0, 1]), (3, [2, 2, 2]), (5, [0, 1, 2, 3]), (1, [0])])
def test_few_classes_give_what_there_is(classes, labels):
    found = hard_negatives(torch.zeros(len(labels), classes), labels, 8, range(classes), random.Random(0))
    assert sorted(c for own in found for c in own) == sorted(set(range(classes)) - set(labels))


def test_random_numbers_are_drawn_for_filling_up_only():
    rng = random.Random(0)
    before = rng.getstate()
    hard_negatives(logits_of("0123", "4567", classes=10), [0, 4], 4, range(10), rng)
    assert rng.getstate() == before


@settings(max_examples=200, deadline=None)
@given(
    classes=st.integers(1, 12), batch=st.integers(1, 6), top_k=st.integers(2, 14), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_properties(classes, batch, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator).tolist()
    found = hard_negatives(logits, labels, top_k, range(classes), random.Random(seed))
    flat = [c for own in found for c in own]
    assert len(flat) == len(set(flat)), "no class twice"
    assert not set(flat) & set(labels)
    left = set(range(classes)) - set(labels)
    for row, label, own in zip(logits.tolist(), labels, found, strict=True):
        assert len(own) <= max(2, top_k - 1)
        assert len(own) >= min(2, len(left))
        by_rank = sorted((c for c in range(classes) if c != label), key=lambda c: -row[c])
        window = sorted(range(classes), key=lambda c: -row[c])[:top_k]
        ranked = [c for c in by_rank if c in window][: top_k - 1]
        expected = [c for c in ranked if c in left]
        assert own[: len(expected)] == expected
        left -= set(own)
