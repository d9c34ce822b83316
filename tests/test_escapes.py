"""Names that hold markup, formulas and control sequences are harmless in every format, and read as what they are."""

from __future__ import annotations

import csv
import html.parser
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_plugin import _escapes
from cpt_plugin.results import compare_text, imported, render, table, text
from cpt_plugin.results.compare import Question, compare
from cpt_plugin.results.grid import build_grid
from cpt_plugin.results.record import Backbone
from cpt_plugin.results.spec import Measure, RowSpec, TableSpec
from tests.helpers.records import make_record

NASTY = "=1+1\x1b[31m|<img src=x>&lt;[a](http://x)\n\u202e\udcff"
outside = st.text(
    st.one_of(st.characters(), st.sampled_from("=+-@\t\r\n|<>&[]()\\`*_\x1b\x9b\u202e\u2028\udcff")), max_size=30
)


def unseen(shown):
    return [sign for sign in shown if re.match("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]", sign)]


@given(outside)
def test_no_control_character_gets_through(name):
    assert not unseen(_escapes.one_line(name))
    assert set(unseen(_escapes.terminal(name))) <= {"\n", "\t"}
    for escape in (_escapes.markdown, _escapes.markdown_cell, _escapes.latex):
        assert not unseen(escape(name))


@given(st.text(st.characters(categories=("L", "N"), max_codepoint=0x2FF), max_size=20))
def test_plain_names_stay_as_they_are(name):
    for escape in (_escapes.one_line, _escapes.terminal, _escapes.markdown, _escapes.markdown_cell):
        assert escape(name) == name


def test_escapes_are_pythons():
    assert _escapes.one_line("a\x1b\n\x9b\u202eé\udce9") == r"a\x1b\n\x9b\u202eé\xe9"


class Tags(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.found, self.shown = [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)

    handle_endtag = handle_comment = handle_decl = handle_pi = unknown_decl = lambda self, data: self.found.append(data)

    def handle_data(self, data):
        self.shown += data


@given(outside)
def test_markdown_holds_no_html(name):
    assert Tags(_escapes.markdown(name)).found == []


@pytest.mark.parametrize("name", ["<b>bold</b>", "<!-- x", "&copy; &#60;", "</td>", "a < b, p <0.0001"])
def test_what_markdown_shows_is_the_name(name):
    assert Tags(_escapes.markdown(name)).shown == name


def test_markdown_links_and_cells():
    assert _escapes.markdown("![x](http://e.g)") == r"![x]\(http://e.g)"
    assert _escapes.markdown("[x]: http://e.g [y][x]") == r"[x]\: http://e.g [y]\[x]"
    assert _escapes.markdown_cell("a|b") == r"a\|b"
    assert _escapes.markdown_cell("a\\|b") == r"a\\\|b", "the backslash is the name's, the pipe is escaped"
    assert _escapes.markdown("[1.0, 2.0] **best** C:\\x") == "[1.0, 2.0] **best** C:\\x"


@pytest.mark.parametrize(
    "name",
    ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\N{FULLWIDTH EQUALS SIGN}1", "\t=1", "\r=1", "-", "-x", "=-1"],
)
def test_a_spreadsheet_takes_no_text_for_a_formula(name):
    (_, (cell, header)) = csv.reader(io.StringIO(_escapes.csv_text(["a", "b"], [{"a": name, "b": name}])))
    assert cell == header == "'" + _escapes.one_line(name)
    assert next(csv.reader(io.StringIO(_escapes.csv_text([name], [])))) == [cell]


@given(st.one_of(st.floats(allow_nan=False), st.integers()))
def test_numbers_stay_numbers_in_csv(number):
    for value in (number, repr(number)):
        lines = _escapes.csv_text(["a", "b"], [{"a": value}]).splitlines()
        if "inf" not in repr(number):
            assert lines == ["a,b", f"{number!r},"]


@given(st.lists(outside, min_size=2, max_size=4))
def test_every_text_stays_in_its_cell(names):
    columns = [str(number) for number in range(len(names))]
    lines = csv.reader(io.StringIO(_escapes.csv_text(columns, [dict(zip(columns, names, strict=True))])))
    _, cells = lines
    for cell, name in zip(cells, names, strict=True):
        assert cell in (_escapes.one_line(name), "'" + _escapes.one_line(name))


@given(outside)
def test_a_tables_cell_cannot_break_it(name):
    lines = text.aligned([["method", "base"], [name, "1.0"]])
    assert len(lines) == 3
    assert not any(map(unseen, lines))
    rows = text.markdown([["method", "base"], [name, "1.0"]])
    assert len(rows) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", rows[2])) == 3


def rendered():
    """Form and text of every table of records whose data set, and of rows whose labels, hold everything bad."""
    runs = [(method, seed) for method in ("maple", "maple_cpt") for seed in (1, 2)]
    records = [make_record(*run, dataset=NASTY, backbone=Backbone(NASTY, "ab" * 32)) for run in runs]
    yield "terminal", table.render_terminal(records)
    yield "markdown", table.render_markdown(records)
    yield "csv", table.render_csv(records)
    comparison = compare(records, Question((("maple_cpt", "maple"),)))
    for form, renderer in compare_text.RENDERERS.items():
        yield form, renderer(comparison)
    rows = (RowSpec(method="maple", label=NASTY), RowSpec(method="maple_cpt", label="maple_cpt", baseline=NASTY))
    spec = TableSpec(f"Title {NASTY}", rows, (Measure(over="each"),), (0.25,), (1, 2), shapes=(NASTY,))
    grid = build_grid(spec, "shapes", records)
    for form, renderer in render.RENDERERS.items():
        yield form, renderer(grid)


def test_imported_experiments_are_a_line_each():
    shown = imported.describe([imported.ImportedRun(NASTY, "seed1", 71.3)])
    assert not unseen(shown)
    assert shown.startswith("=1+1\\x1b[31m|")


def test_every_table_is_harmless():
    for form, shown in rendered():
        assert set(unseen(shown)) <= {"\n"}
        if form == "markdown":
            assert Tags(shown).found == []
            assert "](http" not in shown
        if form == "csv":
            cells = [cell for line in csv.reader(io.StringIO(shown)) for cell in line]
            assert any(cell.startswith("'=1+1") for cell in cells)
            assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
