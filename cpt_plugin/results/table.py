"""Tables as a pure function of records: terminal, Markdown, CSV; the same bytes whatever the record order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cpt_plugin import _escapes
from cpt_plugin.long_tail import NATURAL, shots_in_words, tail_in_words
from cpt_plugin.methods import EMBEDDED_WORLD
from cpt_plugin.results.groups import GROUPS
from cpt_plugin.results.imported_records import NOTE, is_imported
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.runs import REHEARSAL, means_nothing
from cpt_plugin.results.stats import Summary
from cpt_plugin.results.summary import Comparison, Row, Table, build_table
from cpt_plugin.results.text import (
    DASH,
    UNKNOWN_TAU,
    aligned,
    interval,
    listed,
    markdown,
    outlier_line,
    shown_tau,
    span,
    spread,
    wrapped,
)

_COLUMNS_A_BLOCK = 4

_HEADERS = {"balanced_accuracy": "balanced acc.", "macro_f1": "macro-F1", "g_mean": "G-mean", "ece": "ECE"}


def render_terminal(
    records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()
) -> str:
    """Aligned blocks (accuracy; trained classes by group) and notes, at most 110 columns wide.

    Arguments and errors as for `build_table`.
    """
    table = build_table(records, methods, seeds)
    blocks = (
        ["\n".join(wrapped(line) for line in title_of(table))],
        *_accuracy_blocks(table),
        _block(table, GROUPS, with_seeds=False),
        *([_block(table, table.by_class, with_seeds=False)] if table.by_class else []),
        [wrapped(line) for line in [*notes_of(table), legend_of(table)]],
    )
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def render_markdown(
    records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()
) -> str:
    """One Markdown table and its notes. Arguments and errors as for `build_table`."""
    table = build_table(records, methods, seeds)
    header = ["method", *(header_of(table, column) for column in table.columns), "seeds"]
    body = [[row.method, *_cells(row, table.columns), _seeds(row)] for row in table.rows]
    grid = markdown([header, *body])
    notes = [f"- {_escapes.markdown(line)}" for line in [*notes_of(table), legend_of(table)]]
    return "\n".join([*map(_escapes.markdown, title_of(table)), "", *grid, "", *notes]) + "\n"


def render_csv(records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> str:
    """A line a method with every number unrounded; a cell is empty where there is no value.

    Arguments and errors as for `build_table`.
    """
    return csv_of([build_table(records, methods, seeds)])


def csv_of(tables: Sequence[Table]) -> str:
    """The lines of :func:`render_csv` of all tables under one header, which has the columns of each."""
    lines = []
    for table in tables:
        comparisons = {comparison.method: comparison for comparison in table.comparisons}
        lines += [_csv_line(table, row, comparisons.get(row.method)) for row in table.rows]
    return _escapes.csv_text(dict.fromkeys(name for line in lines for name in line), lines)


def title_of(table: Table) -> list[str]:
    """Two lines: what was measured, and with what; a third one where it is no measurement."""
    realized = span([shown_tau(tau, ".4g") for tau in table.realized_taus], " to ")
    tail = f"tau {DASH}" if table.tau == UNKNOWN_TAU else tail_in_words(table.tau, table.shots)
    ranked = "" if tail == NATURAL else f"classes ranked by {table.class_order}, "
    return [
        f"{table.dataset}, {tail} (realized {realized}), {shots_in_words(table.shots)}, {ranked}"
        f"{table.protocol.replace('_', ' ')}",
        f"toolkit {table.toolkit}, backbone {table.backbone.name}, torch {', '.join(table.torch_versions)}, "
        f"on {', '.join(table.devices)}; accuracy in %, mean ±std over seeds {listed(table.seeds)}",
        *_warnings(table),
    ]


def legend_of(table: Table) -> str:
    """What the columns of the classes trained on mean."""
    return (
        "groups are the classes trained on, by training images: head, mid, tail are thirds by rank; "
        f"{table.bands}; "
        "in brackets the number of classes; worst is the worst of them"
        + (f"; {', '.join(_HEADERS[name] for name in table.by_class)} are over all of them" if table.by_class else "")
    )


def _warnings(table: Table) -> list[str]:
    said = [NOTE] if is_imported(table.toolkit) else []
    return [*said, *([REHEARSAL] if means_nothing(table.backbone.name, table.dataset) else [])]


def _accuracy_blocks(table: Table) -> list[list[str]]:
    """One block, or several where the targets do not fit beside each other."""
    columns = (*table.accuracies, "worst")
    parts = [columns[start : start + _COLUMNS_A_BLOCK] for start in range(0, len(columns), _COLUMNS_A_BLOCK)]
    return [_block(table, part, with_seeds=part == parts[0]) for part in parts]


def _block(table: Table, columns: Sequence[str], with_seeds: bool) -> list[str]:
    grid = [["method", *(header_of(table, column) for column in columns)]]
    grid += [[row.method, *_cells(row, columns, padded=True)] for row in table.rows]
    if with_seeds:
        for line, seeds in zip(grid, ["seeds", *map(_seeds, table.rows)], strict=True):
            line.append(seeds)
    return aligned(grid)


def header_of(table: Table, column: str) -> str:
    """Head of a column; groups with their number of classes."""
    if column in _HEADERS:
        return _HEADERS[column]
    if column not in GROUPS:
        return column.removeprefix(f"{EMBEDDED_WORLD}:")
    return f"{column} ({_sizes(table, column) or DASH})"


def _sizes(table: Table, group: str) -> str:
    """Numbers of classes of a group; "" where logs do not tell them."""
    return "" if is_imported(table.toolkit) else span(table.group_sizes[group], "-")


def _cells(row: Row, columns: Sequence[str], padded: bool = False) -> list[str]:
    return [_cell(row.columns[column], padded) for column in columns]


def _cell(summary: Summary | None, padded: bool) -> str:
    if summary is None:
        return DASH.rjust(5) if padded else DASH
    mean, _, std = spread(summary).partition(" ±")
    return f"{mean:>5} ±{std:<4}" if padded else spread(summary)


def _seeds(row: Row) -> str:
    return f"{len(row.by_seed)}/{row.expected}"


def notes_of(table: Table) -> list[str]:
    """Paired differences, values by seed, missing seeds, seeds far off."""
    headline = table.headline
    compared = (*table.comparisons, *table.from_unvaried)
    lines = [line for comparison in compared for line in _comparison_lines(headline, comparison)]
    lines += [_seed_line(headline, row) for row in table.rows if row.by_seed]
    lines += [f"missing seeds of {row.method}: {listed(row.missing)}" for row in table.rows if row.missing]
    if table.by_schedule:
        lines.append(
            f"groups BY SCHEDULE for {listed(table.by_schedule)}: these records are older than schema 4 and do not "
            "tell how many images of each class there were; where the data had fewer than the schedule asks for, or a "
            "tail of their own, the groups are wrong"
        )
    return lines + [outlier_line(outlier) for outlier in table.outliers]


def _comparison_lines(headline: str, comparison: Comparison) -> list[str]:
    method, baseline = comparison.method, comparison.baseline
    gain = comparison.difference
    if gain is None:
        lines = [f"{headline}, {method} - {baseline}: no seed in common"]
    else:
        spread = f"95 % t-interval {interval(gain, 2)}" if gain.interval else "no interval from one seed"
        seeds = listed(comparison.seeds)
        lines = [f"{headline}, {method} - {baseline}: {gain.mean:+z.2f}, {spread}, paired over seeds {seeds}"]
    if comparison.other_settings:
        lines.append(f"{method} and {baseline} also differ in {'; '.join(comparison.other_settings)}")
    return lines


def _seed_line(headline: str, row: Row) -> str:
    values = ", ".join(f"{metrics[headline]:.1f} (seed {seed})" for seed, metrics in row.by_seed.items())
    summary = row.columns[headline]
    if summary and summary.interval:
        values += f"; 95 % t-interval of the mean {interval(summary, 1)}"
    return f"{headline}, {row.method}: {values}"


def _csv_line(table: Table, row: Row, comparison: Comparison | None) -> dict[str, object]:
    line: dict[str, object] = {
        "dataset": table.dataset,
        "tau": None if table.tau == UNKNOWN_TAU else table.tau,
        "protocol": table.protocol,
        "toolkit": table.toolkit,
        "method": row.method,
        "seeds": len(row.by_seed),
        "expected": row.expected,
    }
    for column in table.columns:
        summary = row.columns[column]
        if column in GROUPS:
            line[f"{column}_classes"] = _sizes(table, column)
        line[column] = summary.mean if summary else None
        line[f"{column}_std"] = summary.std if summary else None
    difference = comparison.difference if comparison else None
    line["baseline"] = comparison.baseline if comparison else None
    line[f"{table.headline}_difference"] = difference.mean if difference else None
    line["pairs"] = difference.n if difference else 0
    low, high = (difference and difference.interval) or (None, None)
    line[f"{table.headline}_difference_low"], line[f"{table.headline}_difference_high"] = low, high
    line["note"] = "; ".join(_warnings(table))
    return line
