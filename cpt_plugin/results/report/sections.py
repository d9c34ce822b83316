"""The sections of a report, each a pure function of what was gathered."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import nan
from pathlib import Path

from cpt_plugin.config_identity import NEUTRAL_KEYS
from cpt_plugin.protocols import HEADLINES
from cpt_plugin.results.figures.group import Group, Place, place_of, tail_of, title_of
from cpt_plugin.results.grid import Grid
from cpt_plugin.results.imported_records import NOTE, is_imported
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.render import cell_text, differences, legend, published_text
from cpt_plugin.results.report import html
from cpt_plugin.results.report.gather import Found, Gathered
from cpt_plugin.results.report.html import Cell
from cpt_plugin.results.runs import WHY_NOTHING, means_nothing, name_of
from cpt_plugin.results.stats import Summary
from cpt_plugin.results.table import header_of, legend_of, notes_of
from cpt_plugin.results.table import title_of as lines_of
from cpt_plugin.results.text import DASH, listed, spread

_TRANSFER_SHOWN = ("base", "new", "H", "all", "source", "mean")


def overview(gathered: Gathered) -> str:
    """What there is, in one paragraph."""
    records = gathered.records
    if not records:
        return html.paragraph("No finished runs.")
    parts = [
        f"{len(records)} finished runs",
        f"methods: {listed(sorted({name_of(r) for r in records}))}",
        f"data sets: {listed(sorted({r.dataset for r in records}))}",
        f"tails: {listed(list(dict.fromkeys(tail_of(place_of(r)) for r in sorted(records, key=lambda r: -r.tau))))}",
        f"seeds: {listed(sorted({r.seed for r in records}))}",
    ]
    if dates := [r.created for r in records if r.created != DASH]:
        parts.append(f"finished from {min(dates)} to {max(dates)}")
    if logs := sum(is_imported(r.toolkit) for r in records):
        parts.append(f"{logs} of them {NOTE}")
    parts += gathered.not_shown
    rehearsed = sorted({r.dataset for r in records if means_nothing(r.backbone.name, r.dataset)})
    if rehearsed:
        parts.append(f"accuracies mean nothing on {listed(rehearsed)}: {WHY_NOTHING}")
    return html.bullets(parts)


def group_table(group: Group) -> str:
    """The table of one data set, tau and protocol with its notes."""
    table = group.table
    header = ["method", *(header_of(table, column) for column in table.columns), "seeds"]
    rows: list[list[Cell | str]] = [
        [row.method, *(_mean(row.columns[column]) for column in table.columns),
         Cell(f"{len(row.by_seed)}/{row.expected}", len(row.by_seed))]
        for row in table.rows
    ]  # fmt: skip
    notes = html.folded("differences, values by seed", html.bullets([*notes_of(table), legend_of(table)]))
    return html.table("; ".join(lines_of(table)), header, rows) + notes


def grid_table(grid: Grid) -> str:
    """A table over several data sets with its notes."""
    parts = [html.paragraph(grid.subtitle)]
    for block in grid.blocks:
        beside = [any(cells[i].published for cells in block.cells) for i in range(len(block.columns))]
        header = ["row"]
        for column, has_published in zip(block.columns, beside, strict=True):
            header += [column.header, *(["published"] if has_published else [])]
        rows: list[list[Cell | str]] = []
        for spec, cells in zip(grid.rows, block.cells, strict=True):
            line: list[Cell | str] = [spec.label]
            for cell, has_published in zip(cells, beside, strict=True):
                shown = cell_text(cell) if cell.expected else ""
                line.append(Cell(shown, cell.summary.mean if cell.summary else nan, strong=cell.rank))
                if has_published:
                    figure = cell.published
                    line.append(Cell(published_text(figure), figure.value if figure else nan))
            rows.append(line)
        parts.append(html.table(block.heading or grid.title, header, rows))
    explained = legend(grid, "bold: best, italic: second best of the complete cells")
    return "".join(parts) + html.folded("notes", html.bullets([*differences(grid), *grid.notes, *explained]))


def lacking(gathered: Gathered, groups: Iterable[Group], refused: dict[Place, str]) -> str:
    """Runs that are missing, failed or unfinished, files that are damaged, records that no table is made of."""
    missing = [
        f"{group.title}: {row.method}, seeds {listed(row.missing)}"
        for group in groups for row in group.table.rows if row.missing
    ]  # fmt: skip
    failed = [
        f"{title_of((one.dataset, one.tau, one.protocol))}: {one.method}{f' ({one.variant})' if one.variant else ''}, "
        f"seed {one.seed}, at {one.created}: {one.error}"
        for one in gathered.failures
    ]
    inside = gathered.folder
    unfinished = [str(place.relative_to(inside)) for place in gathered.unfinished]
    damaged = [f"{path.relative_to(inside)}: {reason}" for path, reason in gathered.damaged]
    mixed = [f"{title_of(place)}: {reason}" for place, reason in refused.items()]
    kinds = {
        "Missing runs (other methods have these seeds)": missing,
        "Failed runs without a record": failed,
        "Begun, not finished": unfinished,
        "Damaged files": damaged,
        "Records that no table can be made of": mixed,
    }
    parts = [html.heading(3, title) + html.bullets(lines) for title, lines in kinds.items() if lines]
    return "".join(parts) or html.paragraph("Nothing that these records tell of.")


def runs(gathered: Gathered, page: Path) -> str:
    """A row for each run, with links to its files, relative to the page."""
    shown = [name for name in _TRANSFER_SHOWN if any(name in record.metrics for record in gathered.records)]
    header = ["method", "data set", "tail", "protocol", "seed", *shown, "training (s)", "finished", "record", "log"]
    return html.table("Accuracy in %", header, (_run(one, shown, page) for one in gathered.found))


def configuration(records: Sequence[RunRecord]) -> str:
    """Settings in which runs differ, and those that are the same wherever they are read, with the methods."""
    keys = sorted({key for record in records for key in record.config} - NEUTRAL_KEYS)
    shared: list[list[str]] = []
    others: list[list[str]] = []
    for key in keys:
        owners: dict[str, list[str]] = {}
        for record in records:
            if key in record.config:
                owners.setdefault(repr(record.config[key]), []).append(name_of(record))
        values = "; ".join(_owned(value, names) for value, names in sorted(owners.items()))
        (shared if len(owners) == 1 else others).append([key, values])
    kinds = {"settings that differ": others, "settings that are the same wherever they are read": shared}
    return "".join(
        html.folded(f"{title} ({len(rows)})", html.table("Who has them", ["key", "values"], rows, words=True))
        for title, rows in kinds.items()
    )


def environment(records: Sequence[RunRecord]) -> str:
    """Packages, devices and code of all runs; what differs is shown with the number of runs."""
    values: dict[str, Callable[[RunRecord], str]] = {
        "toolkit": lambda r: r.toolkit,
        "backbone": lambda r: f"{r.backbone.name}, SHA-256 {r.backbone.digest}",
        "device": lambda r: r.device,
        "precision": lambda r: r.precision,
        "commit": lambda r: r.git.shown(),
    }
    for name in sorted({name for record in records for name in record.versions}):
        values[name] = lambda r, name=name: r.versions.get(name, "not recorded")  # type: ignore[misc]
    rows = []
    for name, value_of in values.items():
        counts = Counter(map(value_of, records))
        only = len(counts) == 1
        rows.append([name, "; ".join(v if only else f"{v} ({n} runs)" for v, n in sorted(counts.items()))])
    return html.table("Of all runs", ["what", "value"], rows, words=True)


def _mean(summary: Summary | None) -> Cell:
    return Cell(spread(summary), summary.mean if summary else nan)


def _run(one: Found, shown: Sequence[str], page: Path) -> list[Cell | str]:
    record = one.record
    seconds = record.timings.get("train")
    log = one.file.parent / "log.txt"
    own_folder = one.file.suffix == ".json"
    return [
        name_of(record),
        record.dataset,
        Cell(tail_of(place_of(record)), record.tau),
        record.protocol.replace("_", " "),
        Cell(str(record.seed), record.seed),
        *(_metric(record, name) for name in shown),
        Cell("", nan) if seconds is None else Cell(f"{seconds:.1f}", seconds),
        record.created,
        Cell(one.file.name, link=_relative(one.file, page)),
        Cell("log.txt", link=_relative(log, page)) if own_folder and log.is_file() else "",
    ]


def _metric(record: RunRecord, name: str) -> Cell:
    value = record.metrics.get(name)
    strong = int(name == HEADLINES[record.protocol])
    return Cell("-", nan) if value is None else Cell(f"{value:.2f}", value, strong=strong)


def _relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _owned(value: str, names: Sequence[str]) -> str:
    distinct = sorted(set(names))
    return f"{value}: {listed(distinct) if len(distinct) <= 4 else f'{len(distinct)} methods'}"
