r"""Text from outside (names, paths, messages) made harmless where it is shown, one function a format; standard library.

A name can hold anything that a file system takes: a terminal's control sequences, markup, a spreadsheet's formula.
Everywhere a control character, a line separator or a mark that turns the direction of writing around appears as its
Python escape (``\x1b``), and so does what is no character at all (``\xff`` for a byte of a name that is not UTF-8).
HTML is escaped by `cpt_plugin.results.report.html`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_BACKSLASH = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)")
_LINK = re.compile(r"\](?=[(\[:])")
_FORMULA = (*"=+-@＝＋－＠", "\t", "\r")  # noqa: RUF001
_TEX = {
    **{sign: rf"\{sign}" for sign in "&%_#${}"},
    **{sign: f"${sign}$" for sign in "<>|"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"[": "{[}", "*": "{*}"},  # at the start of a row they would belong to the line break before it
    **{"±": r"$\pm$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$"},
    **{"λ": r"$\lambda$", "τ": r"$\tau$", "Δ": r"$\Delta$"},
}
_TEX_SIGN = re.compile("|".join(map(re.escape, _TEX)))


def one_line(text: str) -> str:
    """For a cell, a label or a comment: nothing in it breaks the line."""
    return _UNSEEN.sub(lambda match: _escape(match[0]), text)


def terminal(text: str) -> str:
    """For a terminal or a log; line breaks and tabs stay."""
    return _UNSEEN.sub(lambda match: match[0] if match[0] in "\n\t" else _escape(match[0]), text)


def markdown(text: str) -> str:
    """For a line of Markdown: no HTML, entity, link or image comes of it; stars and underscores stay as they are."""
    safe = _ENTITY.sub("&amp;", _BACKSLASH.sub(r"\\\\", one_line(text)))
    return _LINK.sub(r"]\\", _TAG.sub("&lt;", safe))


def markdown_cell(text: str) -> str:
    """For a cell of a Markdown table."""
    return markdown(text).replace("|", r"\|")


def latex(text: str) -> str:
    """For LaTeX's text mode."""
    return _TEX_SIGN.sub(lambda match: _TEX[match[0]], one_line(text))


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A CSV file with a header; numbers are written unrounded, None and what a row lacks as an empty cell.

    Text that a spreadsheet would take for a formula gets a quotation mark (``'``) in front, which spreadsheets take
    as the sign of a text; negative numbers stay what they are.
    """
    names: Sequence[str] = list(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_csv_cell, names))
    writer.writerows([_csv_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return f"'{one_line(value)}" if value.startswith(_FORMULA) and not _is_number(value) else one_line(value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def _escape(sign: str) -> str:
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return rf"\x{code - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")
