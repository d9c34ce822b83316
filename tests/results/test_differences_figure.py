"""The forest plot of `compare`: where its marks stand, which are filled, and what becomes a file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cpt_plugin.cli.main import main
from cpt_plugin.results.compare import Question, compare
from cpt_plugin.results.figures import differences
from cpt_plugin.results.store import to_lines
from tests.helpers.comparisons import SEEDS, WORLDS, with_gains

pytest.importorskip("matplotlib")
CLEAR = [[3, 4, 5], [4, 4, 5], [3, 5, 5], [5, 5, 4], [4, 3, 3], [4, 4, 3]]
UNCLEAR = [[9, -8, 3], [-7, 8, 2], [3, -9, 1], [1, 4, -9], [2, 9, -7], [-4, 4, 2]]


def comparison(gains):
    return compare(with_gains(gains), Question((("maple_cptb", "maple"),), ("new", "H")))


@pytest.mark.parametrize(("gains", "filled"), [(CLEAR, True), (UNCLEAR, False)])
def test_marks_stand_at_the_differences(gains, filled):
    panels = differences.draw(comparison(gains)).figure.axes
    assert [axes.get_xlabel() for axes in panels] == ["difference in new (points)", "difference in H (points)"]
    by_world = np.mean(gains, axis=1) * 100 / 90
    _, dots, mark, *_ = panels[0].lines
    assert dots.get_xdata() == pytest.approx(by_world)
    assert mark.get_xdata() == pytest.approx([by_world.mean()])
    assert (mark.get_markerfacecolor() != "white") is filled
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["maple_cptb - maple"]


def face(found):
    return differences.draw(found).figure.axes[0].lines[2].get_markerfacecolor()


@pytest.mark.parametrize(
    "gains",
    [
        pytest.param([[3, 3, 3]] * 6, id="the same in every world: no spread to judge by"),
        pytest.param([[3]], id="one pair: no interval"),
        pytest.param([[3, 4, 5], [4, 4, 5], [3, 5, 5]], id="three worlds: exploratory"),
    ],
)
def test_what_may_not_be_claimed_is_not_filled(gains):
    records = with_gains(gains, SEEDS[: len(gains[0])])
    assert face(compare(records, Question((("maple_cptb", "maple"),), ("new",)))) == "white"


def test_under_a_correction_the_corrected_p_decides():
    gains = [[2, 3, 1], [1, 0, 2], [3, 3, 2], [0, 1, -1], [2, 0, 2], [0, 1, 1]]
    question = Question((("maple_cptb", "maple"),), ("new", "tail", "head"))
    plain, corrected = (compare(with_gains(gains), dataclasses.replace(question, correction=c)) for c in ("", "holm"))
    assert plain.contrasts[0].p < 0.05 < corrected.contrasts[0].p_adjusted
    assert face(plain) != "white" == face(corrected)
    assert "not corrected" in differences.draw(corrected).caption


def test_more_metrics_than_colors_each_have_a_panel():
    metrics = ("base", "new", "H", "head", "mid", "tail", "many", "medium", "few")
    found = compare(with_gains(CLEAR), Question((("maple_cptb", "maple"),), metrics))
    labels = [axes.get_xlabel() for axes in differences.draw(found).figure.axes]
    assert labels == [f"difference in {metric} (points)" for metric in metrics]


def test_missing_pairs_are_said():
    records = [r for r in with_gains(CLEAR) if r.method == "maple_cptb" or r.dataset != WORLDS[0]]
    found = compare(records, Question((("maple_cptb", "maple"),), ("new",)))
    assert WORLDS[0] in differences.draw(found).caption


def test_a_figure_becomes_a_file_and_other_forms_are_refused(tmp_path, capsys):
    (tmp_path / "r.jsonl").write_text(to_lines(with_gains(CLEAR, SEEDS)))
    words = ["compare", "maple_cptb", "maple", str(tmp_path / "r.jsonl"), "--metric", "new", "--figure"]
    assert main([*words, str(tmp_path / "new" / "f.png")]) == 0
    assert (tmp_path / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, str(tmp_path / "f.svg")]) == 2
    assert ".png or .pdf" in capsys.readouterr().err
    assert not (tmp_path / "f.svg").exists()
