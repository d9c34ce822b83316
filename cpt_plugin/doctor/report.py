"""Findings, and how they are shown: for people on about one screen, for bug reports as JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cpt_plugin import __version__
from cpt_plugin._escapes import one_line

OK, NOTE, FIX = "ok", "note", "FIX"
SCHEMA = 1
_COLORS = {OK: "32", NOTE: "33", FIX: "31;1"}
_MARGIN = 23


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: heading under which it is shown.
        status: :data:`OK`; :data:`NOTE` for what hinders nothing that a run needs; :data:`FIX` for what does.
        subject: a word or two.
        text: what was found.
        fix: how to mend it: lines to paste into a shell, or into a script where ``text`` says so; "" for nothing.
    """

    group: str
    status: str
    subject: str
    text: str
    fix: str = ""


def exit_status(findings: Sequence[Finding]) -> int:
    """0 when nothing needs fixing, else 1."""
    return int(any(finding.status == FIX for finding in findings))


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Number of findings of each status."""
    found = Counter(finding.status for finding in findings)
    return {status: found[status] for status in (OK, NOTE, FIX)}


def lines(findings: Sequence[Finding], width: int | None = None, color: bool = False) -> Iterator[str]:
    """The report for people: findings under the headings of their groups, at the end their number.

    Args:
        findings: shown in this order, those of a group together.
        width: columns of the terminal; None: findings are not wrapped. Lines to paste never are.
        color: whether the terminal shows colors.
    """
    for group in dict.fromkeys(finding.group for finding in findings):
        yield group
        for finding in findings:
            if finding.group == group:
                yield from _finding_lines(finding, width, color)
    number = counts(findings)
    yield f"to fix: {number[FIX] or 'nothing'}; notes: {number[NOTE]}; ok: {number[OK]}"


def _finding_lines(finding: Finding, width: int | None, color: bool) -> Iterator[str]:
    mark = f"{finding.status:<5}"
    if color:
        mark = f"\033[{_COLORS[finding.status]}m{mark}\033[0m"
    text = one_line(" ".join(finding.text.split()))
    room = 10**9 if width is None else max(width - _MARGIN, 30)
    first, *rest = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""]
    yield f"  {mark} {one_line(finding.subject):<14} {first}"
    yield from (" " * _MARGIN + line for line in rest)
    yield from (" " * 8 + one_line(line) for line in finding.fix.splitlines())


def as_json(findings: Sequence[Finding], facts: dict[str, Any]) -> dict[str, Any]:
    """The report for programs: everything that was found, and the ``facts`` that it was judged by."""
    return {
        "schema": SCHEMA,
        "program": f"cpt-plugin {__version__} doctor",
        "exit_status": exit_status(findings),
        "counts": counts(findings),
        "findings": [asdict(finding) for finding in findings],
        "facts": facts,
    }
