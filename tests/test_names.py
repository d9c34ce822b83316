"""Nearest names and shortened lists in messages."""

from __future__ import annotations

import pytest

from cpt_plugin._names import hint, nearest, some

KNOWN = ("CoOp", "MaPLe", "ZeroshotCLIP")


def test_nearest_ignores_case_and_keeps_the_known_spelling() -> None:
    assert nearest("maple", KNOWN) == "MaPLe"
    assert nearest("COOPS", KNOWN) == "CoOp"


def test_nearest_always_answers_unless_a_likeness_is_asked_for() -> None:
    assert nearest("qqqq", KNOWN) in KNOWN
    assert nearest("qqqq", KNOWN, cutoff=0.6) == nearest("qqqq", ()) == ""


def test_hint_offers_one_name_or_all() -> None:
    assert hint("mapel", KNOWN) == "did you mean 'MaPLe'?"
    assert hint("qqqq", reversed(KNOWN)) == "known: CoOp, MaPLe, ZeroshotCLIP"
    assert hint("qqqq", ()) == "known: none"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "none"), (1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more"), (6, "a, b, c and 3 more")]
)
def test_some_shows_three_names_and_counts_the_rest(count: int, text: str) -> None:
    assert some(list("abcdef")[:count]) == text
