"""Tables as a pure function of records: terminal, Markdown, CSV; the same bytes whatever the record order."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence

from cpt_plugin.results.groups import FEW_SHOT_BANDS, GROUPS
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.stats import Summary
from cpt_plugin.results.summary import ACCURACIES, COLUMNS, Comparison, Row, Table, build_table

TERMINAL_WIDTH = 110
DASH = "-"

_MANY, _FEW = FEW_SHOT_BANDS
_LEGEND = (
    "groups are base classes, by training images: head, mid, tail are thirds by rank; "
    f"many has {_MANY} or more, medium {_FEW + 1} to {_MANY - 1}, few up to {_FEW}; "
    "in brackets the number of classes; worst is the worst base class"
)


def render_terminal(
    records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()
) -> str:
    """Two aligned blocks (accuracy; base classes by group) and notes, at most 110 columns wide.

    Arguments and errors as for `build_table`.
    """
    table = build_table(records, methods, seeds)
    blocks = (
        ["\n".join(_wrapped(line) for line in _title(table))],
        _block(table, (*ACCURACIES, "worst"), with_seeds=True),
        _block(table, GROUPS, with_seeds=False),
        [_wrapped(line) for line in [*_notes(table), _LEGEND]],
    )
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def render_markdown(
    records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()
) -> str:
    """One Markdown table and its notes. Arguments and errors as for `build_table`."""
    table = build_table(records, methods, seeds)
    header = ["method", *(_header(table, column) for column in COLUMNS), "seeds"]
    body = [[row.method, *_cells(row, COLUMNS), _seeds(row)] for row in table.rows]
    rule = ["---", *["--:"] * (len(header) - 1)]
    grid = ["| " + " | ".join(cells) + " |" for cells in [header, rule, *body]]
    notes = [f"- {line}" for line in [*_notes(table), _LEGEND]]
    return "\n".join([*_title(table), "", *grid, "", *notes]) + "\n"


def render_csv(records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> str:
    """A line a method with every number unrounded; a cell is empty where there is no value.

    Arguments and errors as for `build_table`.
    """
    table = build_table(records, methods, seeds)
    comparisons = {comparison.method: comparison for comparison in table.comparisons}
    lines = [_csv_line(table, row, comparisons.get(row.method)) for row in table.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _title(table: Table) -> list[str]:
    realized = _span([f"{tau:.4g}" for tau in table.realized_taus], " to ")
    return [
        f"{table.dataset}, tau {table.tau:g} (realized {realized}), {table.shots} shots, "
        f"classes ranked by {table.class_order}, {table.protocol.replace('_', ' ')}",
        f"toolkit {table.toolkit}, backbone {table.backbone.name}, torch {', '.join(table.torch_versions)}, "
        f"on {', '.join(table.devices)}; accuracy in %, mean ±std over seeds {_listed(table.seeds)}",
    ]


def _block(table: Table, columns: Sequence[str], with_seeds: bool) -> list[str]:
    grid = [["method", *(_header(table, column) for column in columns)]]
    grid += [[row.method, *_cells(row, columns, aligned=True)] for row in table.rows]
    if with_seeds:
        for line, seeds in zip(grid, ["seeds", *map(_seeds, table.rows)], strict=True):
            line.append(seeds)
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in grid]
    return [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]


def _header(table: Table, column: str) -> str:
    if column not in GROUPS:
        return column
    return f"{column} ({_span(table.group_sizes[column], '-')})"


def _span(values: Sequence[object], joint: str) -> str:
    return joint.join(dict.fromkeys((str(values[0]), str(values[-1]))))


def _cells(row: Row, columns: Sequence[str], aligned: bool = False) -> list[str]:
    return [_cell(row.columns[column], aligned) for column in columns]


def _cell(summary: Summary | None, aligned: bool) -> str:
    if summary is None:
        return DASH.rjust(5) if aligned else DASH
    mean = f"{summary.mean:.1f}"
    std = DASH if summary.std is None else f"{summary.std:.1f}"
    return f"{mean:>5} ±{std:<4}" if aligned else f"{mean} ±{std}"


def _seeds(row: Row) -> str:
    return f"{len(row.by_seed)}/{row.expected}"


def _notes(table: Table) -> list[str]:
    lines = [line for comparison in table.comparisons for line in _comparison_lines(comparison)]
    lines += [_seed_line(row) for row in table.rows if row.by_seed]
    lines += [f"missing seeds of {row.method}: {_listed(row.missing)}" for row in table.rows if row.missing]
    for outlier in table.outliers:
        distance = abs(outlier.value - outlier.median)
        side = "above" if outlier.value > outlier.median else "below"
        lines.append(
            f"check: {outlier.method}, seed {outlier.seed}: {outlier.column} {outlier.value:.1f} is "
            f"{distance:.1f} points {side} the median {outlier.median:.1f}"
        )
    return lines


def _comparison_lines(comparison: Comparison) -> list[str]:
    method, baseline = comparison.method, comparison.baseline
    gain = comparison.difference
    if gain is None:
        lines = [f"H, {method} - {baseline}: no seed in common"]
    else:
        spread = f"95 % t-interval {_interval(gain, 2)}" if gain.interval else "no interval from one seed"
        seeds = _listed(comparison.seeds)
        lines = [f"H, {method} - {baseline}: {gain.mean:+z.2f}, {spread}, paired over seeds {seeds}"]
    if comparison.other_settings:
        lines.append(f"{method} and {baseline} also differ in {'; '.join(comparison.other_settings)}")
    return lines


def _seed_line(row: Row) -> str:
    values = ", ".join(f"{accuracy.H:.1f} (seed {seed})" for seed, accuracy in row.by_seed.items())
    summary = row.columns["H"]
    if summary and summary.interval:
        values += f"; 95 % t-interval of the mean {_interval(summary, 1)}"
    return f"H, {row.method}: {values}"


def _interval(summary: Summary, digits: int) -> str:
    low, high = summary.interval or (summary.mean, summary.mean)
    return f"[{low:z.{digits}f}, {high:z.{digits}f}]"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _wrapped(line: str) -> str:
    return textwrap.fill(line, TERMINAL_WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _csv_line(table: Table, row: Row, comparison: Comparison | None) -> dict[str, object]:
    line: dict[str, object] = {
        "dataset": table.dataset,
        "tau": table.tau,
        "toolkit": table.toolkit,
        "method": row.method,
        "seeds": len(row.by_seed),
        "expected": row.expected,
    }
    for column in COLUMNS:
        summary = row.columns[column]
        if column in GROUPS:
            line[f"{column}_classes"] = _span(table.group_sizes[column], "-")
        line[column] = summary.mean if summary else None
        line[f"{column}_std"] = summary.std if summary else None
    difference = comparison.difference if comparison else None
    line["baseline"] = comparison.baseline if comparison else None
    line["H_difference"] = difference.mean if difference else None
    line["pairs"] = difference.n if difference else 0
    line["H_difference_low"], line["H_difference_high"] = (difference and difference.interval) or (None, None)
    return line
