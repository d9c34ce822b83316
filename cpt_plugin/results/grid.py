"""From records to the cells of a table over several data sets; what cannot be used is shown, never averaged away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean

from cpt_plugin.config_identity import differences
from cpt_plugin.long_tail import shots_in_words
from cpt_plugin.methods import ZEROSHOT, parse_method
from cpt_plugin.results.published import H_OF_MEANS, Published, published
from cpt_plugin.results.record import LOWER_IS_BETTER, RunRecord
from cpt_plugin.results.runs import (
    BY_SEED_KEYS,
    EVERYWHERE,
    REHEARSAL,
    Key,
    Runs,
    by_schedule,
    check_shared,
    collect,
    key_of,
    other_images,
    plain_key,
    run_of,
    split_rehearsals,
)
from cpt_plugin.results.spec import Column, RowSpec, TableSpec, blocks
from cpt_plugin.results.stats import Summary, harmonic_mean, summarize
from cpt_plugin.results.store import Failure
from cpt_plugin.results.summary import metric, other_settings, outliers
from cpt_plugin.results.text import listed, outlier_line, shown_tau


@dataclass(frozen=True)
class Cell:
    """One row in one column.

    by_seed: the metric averaged over the data sets, for the seeds that all of them have; expected: number of seeds.
    rank: 1 for the best and 2 for the second best of the complete cells of a column of at least two, else 0.
    difference: to the baseline's cell over ``paired``, the seeds of both; published: what others printed.
    problem: whether anything but missing runs keeps seeds out; what it is stands in the grid's notes.
    """

    by_seed: dict[int, float]
    expected: int
    problem: bool = False
    rank: int = 0
    difference: Summary | None = None
    paired: tuple[int, ...] = ()
    published: Published | None = None

    @property
    def summary(self) -> Summary | None:
        """Over the seeds that are there."""
        return summarize(list(self.by_seed.values()))

    @property
    def complete(self) -> bool:
        """Whether every expected seed is there and nothing is wrong."""
        return not self.problem and 0 < len(self.by_seed) == self.expected


@dataclass(frozen=True)
class Block:
    """Columns under a heading, with a cell for every row of the grid."""

    heading: str
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Grid:
    """Everything a renderer prints. notes: problems, missing and failed runs, settings that differ, outliers.

    warning: what makes all of it no measurement, also in the subtitle; mostly "".
    """

    title: str
    subtitle: str
    rows: tuple[RowSpec, ...]
    baselines: dict[str, str]
    seeds: tuple[int, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    on_photos: bool
    warning: str = ""


def build_grid(
    spec: TableSpec,
    world: str,
    records: Iterable[RunRecord],
    seeds: Sequence[int] = (),
    failures: Iterable[Failure] = (),
) -> Grid:
    """Fill a table from whatever records there are, independently of their order; others are left aside.

    world: ``shapes`` or ``real``; seeds: those expected instead of the table's own.

    Runs whose accuracies mean nothing (the micro model on photographs) are left out, which is noted, unless there are
    no others: then the table warns of it.

    Raises RecordError for records of several toolkits, backbones, shots or class orders.
    """
    spec = replace(spec, seeds=tuple(dict.fromkeys(seeds)) or spec.seeds)
    return _Builder(spec, world, list(records), list(failures)).grid()


class _Builder:
    """Keeps what the cells are made from, and collects the notes."""

    def __init__(
        self, spec: TableSpec, world: str, records: list[RunRecord], failures: list[Failure]
    ) -> None:
        self.spec, self.world = spec, world
        self.blocks = blocks(spec, world)
        wanted = {key for _, columns in self.blocks for c in columns for row in spec.rows for key in _keys(row, c)}
        self.records = [r for r in records if key_of(r) in wanted and r.seed in spec.seeds]
        measured, self.rehearsed = split_rehearsals(self.records)
        self.is_rehearsal = bool(self.rehearsed) and not measured
        self.records = measured or self.records
        self.instead = _instead(records, wanted)
        apart = [record for record in records if key_of(record) not in wanted and plain_key(record) in wanted]
        self.otherwise_divided = sorted({record.dataset for record in apart})
        if self.records:
            check_shared(sorted(self.records, key=_order), EVERYWHERE)
        self.other_images = other_images(sorted(self.records, key=_order))
        self.by_key: dict[Key, list[RunRecord]] = defaultdict(list)
        for record in sorted(self.records, key=_order):
            self.by_key[key_of(record)].append(record)
        self.failures = {run_of(failure): failure for failure in failures}
        self.runs: dict[tuple[str, Key], Runs] = {}
        self.notes: dict[str, None] = {}
        self.method = cache(parse_method)

    def grid(self) -> Grid:
        baselines = {row.label: label for row in self.spec.rows if (label := self._baseline(row))}
        filled = tuple(self._block(heading, columns, baselines) for heading, columns in self.blocks)
        self._note_runs()
        if self.rehearsed and not self.is_rehearsal:
            self.notes[self.rehearsed] = None
        for name in self.otherwise_divided:
            self.notes[f"left out: records of '{name}', which is not the division of the data that tables show"] = None
        self.notes |= dict.fromkeys(by_schedule(self.records))
        self._note_settings(baselines)
        for block in filled:
            self._note_outliers(block)
        return Grid(
            self.spec.title, self._subtitle(), self.spec.rows, baselines, self.spec.seeds, filled, tuple(self.notes),
            self.world == "real", REHEARSAL if self.is_rehearsal else "",
        )  # fmt: skip

    def _baseline(self, row: RowSpec) -> str:
        if row.baseline or not row.method:
            return row.baseline
        method, options = self.method(row.method), row.options or {}
        plain = [one for one in self.spec.rows if one.method == method.baseline.name and one.label != row.label]
        alike = [one for one in plain if (one.options or {}).items() <= options.items()]
        if not alike or not (method.parts or options):
            return ""
        return max(alike, key=lambda one: len(one.options or {})).label

    def _block(self, heading: str, columns: tuple[Column, ...], baselines: dict[str, str]) -> Block:
        cells = {(row.label, column): self._cell(row, column) for row in self.spec.rows for column in columns}
        for column in columns:
            ranks = _ranks(
                {row.label: cells[row.label, column] for row in self.spec.rows}, column.metric in LOWER_IS_BETTER
            )
            for row in self.spec.rows:
                cell = cells[row.label, column]
                other = cells.get((baselines.get(row.label, ""), column), Cell({}, 0))
                paired = tuple(seed for seed in cell.by_seed if seed in other.by_seed)
                cells[row.label, column] = replace(
                    cell,
                    rank=ranks.get(row.label, 0),
                    difference=summarize([cell.by_seed[seed] - other.by_seed[seed] for seed in paired]),
                    paired=paired,
                    published=_figure(row, column),
                )
        return Block(heading, columns, tuple(tuple(cells[row.label, c] for c in columns) for row in self.spec.rows))

    def _cell(self, row: RowSpec, column: Column) -> Cell:
        seeds = self.spec.seeds if column.seed is None else (column.seed,)
        if not row.method:
            return Cell({}, 0)
        found = [self._runs(row, key) for key in _keys(row, column)]
        common = [seed for seed in seeds if all(seed in runs.by_seed for runs in found)]
        values = {seed: _value([runs.by_seed[seed] for runs in found], column.metric) for seed in common}
        once = row.method == ZEROSHOT and not any(runs.missing and runs.by_seed for runs in found)
        if once and not common and all(runs.by_seed for runs in found):  # each data set under another seed
            values = {seeds[0]: _value([next(iter(runs.by_seed.values())) for runs in found], column.metric)}
        by_seed = {seed: value for seed, value in values.items() if value is not None}
        if len(by_seed) < len(values):
            lacking = listed([seed for seed in values if seed not in by_seed])
            self.notes[f"{row.label}, {column.header}: no such value for seeds {lacking}"] = None
        expected = max(1, len(common)) if once else len(seeds)
        problem = any(runs.problems for runs in found) or len(by_seed) < len(values)
        return Cell(by_seed, expected, problem)

    def _runs(self, row: RowSpec, key: Key) -> Runs:
        if (row.label, key) not in self.runs:
            bad = {seed for (*place, seed) in self.other_images if tuple(place) == key[2:]}
            name = row.method if row.method == ZEROSHOT else row.label
            usable, spoiled = (
                collect(name, [one for one in self.by_key.get(key, []) if (one.seed in bad) == is_bad], self.spec.seeds)
                for is_bad in (False, True)
            )
            images = [self.other_images[(*key[2:], seed)] for seed in sorted(bad) if seed in spoiled.by_seed]
            missing = usable.missing[:1] if row.method == ZEROSHOT and not usable.by_seed else usable.missing
            problems = (*usable.problems, *spoiled.problems, *images)
            self.runs[row.label, key] = Runs(usable.by_seed, missing, problems)
        return self.runs[row.label, key]

    def _note_runs(self) -> None:
        """Missing runs by row, protocol and tau, then what is wrong with others."""
        missing: dict[tuple[str, str, float | str], dict[tuple[int, ...], list[str]]] = defaultdict(dict)
        datasets: dict[tuple[str, str, float | str], int] = defaultdict(int)
        total: dict[tuple[str, str, float | str], int] = defaultdict(int)
        there: dict[tuple[str, str, float | str], int] = defaultdict(int)
        trouble: list[str] = []
        for (label, key), runs in self.runs.items():
            dataset, tau, protocol = key[2:]
            place = f"{dataset}, tau {tau:g}, {protocol.replace('_', ' ')}"
            group = (label, protocol, tau)
            there[group] += len(runs.by_seed)
            total[group] += runs.expected
            datasets[group] += 1
            if runs.missing:
                missing[group].setdefault(runs.missing, []).append(dataset)
            trouble += [f"not used: {problem} ({place})" for problem in runs.problems]
            for seed in runs.missing:
                if failure := self.failures.get((key, seed)):
                    trouble.append(f"failed: {label}, seed {seed}, {place}: {' '.join(failure.error.split())}")
        for (label, protocol, tau), places in missing.items():
            what = f"{label}, {protocol.replace('_', ' ')}, tau {tau:g}"
            group = (label, protocol, tau)
            parts = [_seeds_of(seeds, names, datasets[group]) for seeds, names in places.items()]
            where = "; ".join(parts) if there[group] else f"all {total[group]} runs"
            self.notes[f"missing: {what}: {where}"] = None
        self.notes |= dict.fromkeys(trouble)

    def _note_settings(self, baselines: dict[str, str]) -> None:
        """Settings that differ between the data sets of a row, or between a row and the baseline it extends."""
        first: dict[tuple[str, Key], RunRecord] = {
            place: next(iter(runs.by_seed.values())) for place, runs in self.runs.items() if runs.by_seed
        }
        seen: dict[tuple[str, str, float | str], RunRecord] = {}
        rows = {row.label: row for row in self.spec.rows}
        for (label, key), record in first.items():
            reference = seen.setdefault((label, key[4], key[3]), record)
            own = {name for name in {*record.config, *reference.config} if name.startswith("DATASET.")}
            for line in differences(reference.config, record.config, BY_SEED_KEYS | own):
                self.notes[f"{label}: settings differ between {reference.dataset} and {record.dataset}: {line}"] = None
            method, row = self.method(record.method), rows.get(baselines.get(label, ""))
            other = first.get((row.label, (row.method, row.variant, *key[2:]))) if row else None
            if other and method.parts and other.method == method.baseline.name:
                for line in other_settings(record, other):
                    self.notes[f"{label} and {baselines[label]} also differ in {line}"] = None

    def _note_outliers(self, block: Block) -> None:
        """Seeds far off the others (R27), in the averages and in single columns."""
        for row, cells in zip(self.spec.rows, block.cells, strict=True):
            for column, cell in zip(block.columns, cells, strict=True):
                name = f"{column.header}{f', {block.heading}' if block.heading else ''}"
                found = outliers(row.label, (name,), {seed: {name: value} for seed, value in cell.by_seed.items()})
                self.notes |= dict.fromkeys(map(outlier_line, found))

    def _subtitle(self) -> str:
        seeds = f"accuracy in %, mean ±std over seeds {listed(self.spec.seeds)}, n/expected where incomplete"
        if not self.records:
            return f"{self.instead}; {seeds}"
        first = sorted(self.records, key=_order)[0]
        devices = ", ".join(sorted({record.device for record in self.records}))
        versions = ", ".join(sorted({record.versions.get("torch", "unknown") for record in self.records}))
        warning = f"{REHEARSAL}; " if self.is_rehearsal else ""
        return (
            f"{warning}{shots_in_words(first.shots)}, classes ranked by {first.class_order}; toolkit {first.toolkit}, "
            f"backbone {first.backbone.name}, torch {versions}, on {devices}; {seeds}"
        )


def _value(records: Sequence[RunRecord], name: str) -> float | None:
    """A metric averaged over data sets; None where one of them does not have it."""
    if name == H_OF_MEANS:
        metrics = [record.metrics for record in records]
        return harmonic_mean(fmean(m["base"] for m in metrics), fmean(m["new"] for m in metrics))
    try:
        values = [metric(record, name) for record in records]
    except KeyError:
        return None
    present = [value for value in values if value is not None]
    return fmean(present) if len(present) == len(values) else None


def _ranks(cells: dict[str, Cell], lower_is_better: bool) -> dict[str, int]:
    means = {label: cell.summary.mean for label, cell in cells.items() if cell.complete and cell.summary}
    if len(means) < 2:
        return {}
    best = sorted(set(means.values()), reverse=not lower_is_better)[:2]
    return {label: best.index(mean) + 1 for label, mean in means.items() if mean in best}


def _figure(row: RowSpec, column: Column) -> Published | None:
    if not row.published or column.published is None:
        return None
    return published(row.published, column.protocol, column.tau, *column.published)


def _seeds_of(seeds: tuple[int, ...], names: list[str], datasets: int) -> str:
    if 1 < datasets == len(names):
        return f"seeds {listed(seeds)} of all {datasets} data sets"
    return f"{listed(names)} (seeds {listed(seeds)})"


def _keys(row: RowSpec, column: Column) -> list[Key]:
    return [(row.method, row.variant, dataset, column.tau, column.protocol) for dataset in column.datasets]


def _instead(records: Sequence[RunRecord], wanted: set[Key]) -> str:
    """What there is instead of the runs of the table: the same under other seeds, or others."""
    if not records:
        return "no records yet"
    if seeds := sorted({record.seed for record in records if key_of(record) in wanted}):
        return f"no records of these seeds, but of {listed(seeds)} (--seeds)"
    taus = ", ".join(shown_tau(tau) for tau in sorted({record.tau for record in records}, reverse=True))
    places = listed(sorted({record.dataset for record in records}))
    return f"no records of these runs; the {len(records)} that there are have tau {taus} and are of {places}"


def _order(record: RunRecord) -> tuple[object, ...]:
    return (*run_of(record), record.config_hash, record.created)
