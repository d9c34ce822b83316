"""The few elements that a report is made of; every text is escaped here, in one place."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from math import isnan
from urllib.parse import quote

from cpt_plugin._escapes import terminal

_POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
)


_LONG = 40


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    value: the number that a column is sorted by, NaN where there is none (by default the text itself); link: relative
    path; strong: 1 bold, 2 italic.
    """

    text: str
    value: float | None = None
    link: str = ""
    strong: int = 0


def text(value: object) -> str:
    """Any text, escaped for use in elements and attributes."""
    return escape(terminal(str(value)), quote=True)


def heading(level: int, words: str, anchor: str = "") -> str:
    """A heading."""
    name = f' id="{text(anchor)}"' if anchor else ""
    return f"<h{level}{name}>{text(words)}</h{level}>"


def paragraph(words: str) -> str:
    """A paragraph."""
    return f"<p>{text(words)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """A list; nothing for no lines."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def folded(summary: str, content: str) -> str:
    """Content that opens on a click, and in print."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Cell | str]], words: bool = False) -> str:
    """A table whose columns are sorted by a click on their heads; ``words``: not of figures."""
    head = "".join(f'<th scope="col"><button type="button">{text(name)}</button></th>' for name in header)
    body = "".join(f"<tr>{''.join(_cell(cell, i == 0) for i, cell in enumerate(row))}</tr>\n" for row in rows)
    return (
        f'<p class="caption">{text(caption)}</p>\n<div class="wide">'
        f'<table class="sortable{" words" if words else ""}" aria-label="{text(caption)}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def image(png: bytes, caption: str) -> str:
    """A figure that is part of the page."""
    data = base64.b64encode(png).decode("ascii")
    shown = text(caption)
    return f'<figure><img alt="{shown}" src="data:image/png;base64,{data}"><figcaption>{shown}</figcaption></figure>'


def link(path: str, words: str) -> str:
    """A link to a file by its relative path, whose characters are all taken literally."""
    return f'<a href="./{quote(path)}">{text(words)}</a>'


def page(title: str, body: str) -> str:
    """The whole page. Its policy lets only this style and script run, and nothing be loaded from anywhere."""
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = _POLICY.format(style=_digest(style), script=_digest(script))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _cell(cell: Cell | str, is_head: bool) -> str:
    one = Cell(cell) if isinstance(cell, str) else cell
    inner = link(one.link, one.text) if one.link else text(one.text)
    inner = {1: f"<strong>{inner}</strong>", 2: f"<em>{inner}</em>"}.get(one.strong, inner)
    number = "" if one.value is None or isnan(one.value) else repr(one.value)
    value = "" if one.value is None else f' data-value="{number}"'
    long = ' class="long"' if len(one.text) > _LONG else ""
    return f'<th scope="row"{value}>{inner}</th>' if is_head else f"<td{long}{value}>{inner}</td>"


def _asset(name: str) -> str:
    return resources.files("cpt_plugin").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
