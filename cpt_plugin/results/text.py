"""Pieces of text that all tables share: cells, intervals, aligned blocks, Markdown grids."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from cpt_plugin._escapes import markdown_cell, one_line
from cpt_plugin.results.stats import Summary
from cpt_plugin.results.summary import Outlier

TERMINAL_WIDTH = 110
DASH = "-"
UNKNOWN_TAU = 0.0
"""The imbalance ratio of imported logs that do not tell theirs; no run has it."""


def spread(summary: Summary | None, digits: int = 1) -> str:
    """``mean ±std``, a dash for what there is not."""
    if summary is None:
        return DASH
    std = DASH if summary.std is None else f"{summary.std:.{digits}f}"
    return f"{summary.mean:.{digits}f} ±{std}"


def interval(summary: Summary, digits: int) -> str:
    """The t-interval in brackets; of a single value the value itself."""
    low, high = summary.interval or (summary.mean, summary.mean)
    return f"[{low:z.{digits}f}, {high:z.{digits}f}]"


def shown_tau(tau: float, digits: str = "g") -> str:
    """An imbalance ratio, a dash where it is not known."""
    return DASH if tau == UNKNOWN_TAU else f"{tau:{digits}}"


def listed(values: Sequence[object]) -> str:
    """The values with commas."""
    return ", ".join(map(str, values))


def span(values: Sequence[object], joint: str) -> str:
    """The first and the last value; one where they read alike."""
    return joint.join(dict.fromkeys((str(values[0]), str(values[-1]))))


def wrapped(line: str) -> str:
    """A line cut at the terminal's width, what follows indented."""
    text = one_line(" ".join(line.splitlines()))
    return textwrap.fill(text, TERMINAL_WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def aligned(grid: Sequence[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns under a rule; the first line of the grid is the header."""
    shown = [[one_line(cell) for cell in line] for line in grid]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in shown]
    return [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]


def fitting(lines: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The columns in parts that fit the terminal, each behind the labels."""
    columns = [list(column) for column in zip(*lines, strict=True)]
    widths = [max(len(one_line(cell)) for cell in column) for column in columns]
    parts: list[list[int]] = [[]]
    for index in range(1, len(columns)):
        used = widths[0] + sum(widths[i] + 2 for i in parts[-1])
        if parts[-1] and used + widths[index] + 2 > TERMINAL_WIDTH:
            parts.append([])
        parts[-1].append(index)
    return [[[line[0], *(line[index] for index in part)] for line in lines] for part in parts]


def markdown(grid: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first column is text and whose others are figures."""
    rule = ["---", *["--:"] * (len(grid[0]) - 1)]
    escaped = [[markdown_cell(cell) for cell in line] for line in grid]
    return ["| " + " | ".join(cells) + " |" for cells in [escaped[0], rule, *escaped[1:]]]


def outlier_line(outlier: Outlier) -> str:
    """What to look at when one seed is far off the others."""
    distance = abs(outlier.value - outlier.median)
    side = "above" if outlier.value > outlier.median else "below"
    return (
        f"check: {outlier.method}, seed {outlier.seed}: {outlier.column} {outlier.value:.1f} is "
        f"{distance:.1f} points {side} the median {outlier.median:.1f}"
    )
