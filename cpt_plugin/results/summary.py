"""From the records of one data set and one tau to the numbers of a table; refuses what must not be mixed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cpt_plugin.config_identity import differences
from cpt_plugin.errors import RecordError
from cpt_plugin.methods import ZEROSHOT
from cpt_plugin.protocols import HEADLINES
from cpt_plugin.results.groups import GROUPS, Bands
from cpt_plugin.results.record import BY_CLASS, Backbone, RunRecord
from cpt_plugin.results.runs import (
    BY_SEED_KEYS,
    EVERYWHERE,
    Runs,
    baseline_of,
    check_shared,
    collect,
    name_of,
    other_images,
)
from cpt_plugin.results.stats import Summary, summarize

OUTLIER_POINTS = 5.0

_SHARED = {
    "dataset": lambda record: record.dataset,
    "tau": lambda record: record.tau,
    "protocol": lambda record: record.protocol,
    "evaluations": lambda record: ", ".join(record.evaluations),
    "groups": lambda record: str(record.bands),
    **EVERYWHERE,
}


@dataclass(frozen=True)
class Row:
    """One method: its metrics by seed and the summary of each column (None: no run, or an empty group)."""

    method: str
    expected: int
    by_seed: dict[int, dict[str, float]]
    missing: tuple[int, ...]
    columns: dict[str, Summary | None]


@dataclass(frozen=True)
class Comparison:
    """The headline of a row minus that of its baseline over the seeds both have; other settings that differ.

    baseline: the row of the same method without regularizers under the same remaining settings. There is no comparison
    with a baseline that has no row.
    """

    method: str
    baseline: str
    seeds: tuple[int, ...]
    difference: Summary | None
    other_settings: tuple[str, ...]


@dataclass(frozen=True)
class Outlier:
    """A seed more than `OUTLIER_POINTS` off the median over the seeds of its method."""

    method: str
    seed: int
    column: str
    value: float
    median: float


@dataclass(frozen=True)
class Table:
    """Everything a renderer prints. `group_sizes` holds the numbers of classes that occur (mostly one).

    accuracies: the metrics of the protocol; headline: the one that sums it up; by_class: those of `BY_CLASS` that any
    of the records knows. by_schedule: runs whose training images by class are not known from the data.
    comparisons: of rows with their baselines; from_unvaried: of variants with their methods as configured, besides.
    """

    dataset: str
    tau: float
    realized_taus: tuple[float, ...]
    class_order: str
    shots: int
    protocol: str
    accuracies: tuple[str, ...]
    headline: str
    by_class: tuple[str, ...]
    bands: Bands
    by_schedule: tuple[str, ...]
    toolkit: str
    backbone: Backbone
    devices: tuple[str, ...]
    torch_versions: tuple[str, ...]
    seeds: tuple[int, ...]
    group_sizes: dict[str, tuple[int, ...]]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    outliers: tuple[Outlier, ...]
    from_unvaried: tuple[Comparison, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns: the metrics, the worst class, the groups, the metrics of the classes trained on."""
        return (*self.accuracies, "worst", *GROUPS, *self.by_class)


def build_table(
    records: Iterable[RunRecord], methods: Sequence[str] = (), seeds: Sequence[int] = ()
) -> Table:
    """Aggregate the records of one data set and one tau, independently of their order.

    `methods`: rows in this order, also when a method has no record yet (further methods follow);
    `seeds`: those expected of every method, by default all that occur. A missing seed lowers n in
    n/expected. Zero-shot trains nothing, so one of its runs is enough while classes are ranked by label.

    Raises RecordError, naming what differs, for records of several data sets, taus, class orders, shots,
    protocols, toolkits or backbones; for one method under several configurations (`SEED` apart), with a
    seed twice or with an unexpected seed; for methods that saw other images under the same seed.
    """
    ordered = sorted(records, key=lambda record: (_row_order(record), record.seed))
    if not ordered:
        raise RecordError("no records: nothing to make a table of")
    check_shared(ordered, _SHARED)
    for complaint in other_images(ordered).values():
        raise RecordError(complaint)
    expected = tuple(sorted(set(seeds))) or tuple(sorted({record.seed for record in ordered}))
    names = list(dict.fromkeys([*methods, *map(name_of, ordered)]))
    runs = {name: collect(name, [one for one in ordered if name_of(one) == name], expected) for name in names}
    for complaint in (problem for one in runs.values() for problem in one.problems):
        raise RecordError(complaint)
    first = ordered[0]
    accuracies, headline = tuple(first.metrics), HEADLINES[first.protocol]
    by_class = tuple(name for name in BY_CLASS if any(metric(record, name) is not None for record in ordered))
    rows = tuple(_row(name, runs[name], (*accuracies, "worst", *GROUPS, *by_class)) for name in names)
    return Table(
        first.dataset,
        first.tau,
        tuple(sorted({record.realized_tau for record in ordered})),
        first.class_order,
        first.shots,
        first.protocol,
        accuracies,
        headline,
        by_class,
        first.bands,
        tuple(f"{name_of(record)} seed {record.seed}" for record in ordered if record.by_schedule),
        first.toolkit,
        first.backbone,
        tuple(sorted({record.device for record in ordered})),
        tuple(sorted({record.versions.get("torch", "unknown") for record in ordered})),
        expected,
        {group: tuple(sorted({record.groups[group].classes for record in ordered})) for group in GROUPS},
        rows,
        tuple(found for name in names if (found := _comparison(name, runs, headline)) is not None),
        tuple(outlier for row in rows for outlier in outliers(row.method, accuracies, row.by_seed)),
        tuple(found for name in names if (found := _from_unvaried(name, runs, headline)) is not None),
    )


def _row_order(record: RunRecord) -> tuple[bool, str, int, str, str]:
    return record.method != ZEROSHOT, baseline_of(record), len(record.regularizers), record.method, record.variant


def _row(name: str, runs: Runs, columns: Sequence[str]) -> Row:
    summaries = {}
    for column in columns:
        values = [metric(record, column) for record in runs.by_seed.values()]
        present = [value for value in values if value is not None]
        summaries[column] = summarize(present) if len(present) == len(values) else None
    by_seed = {seed: record.metrics for seed, record in runs.by_seed.items()}
    return Row(name, runs.expected, by_seed, runs.missing, summaries)


def metric(record: RunRecord, name: str) -> float | None:
    """A metric, one of `BY_CLASS`, a group's accuracy or ``worst``, the worst class's; None for what there is not."""
    if name == "worst":
        return record.worst_class.accuracy if record.worst_class else None
    if name in BY_CLASS:
        return record.trained.by_class[name]
    return record.groups[name].accuracy if name in record.groups else record.metrics[name]


def _comparison(name: str, all_runs: dict[str, Runs], headline: str) -> Comparison | None:
    """A row with the plain method under the same remaining settings; a variant of that with it as configured."""
    record = _first(all_runs[name])
    if record is None or not (record.regularizers or record.variant):
        return None
    return _difference(record, _plain(record, all_runs) if record.regularizers else record.method, all_runs, headline)


def _from_unvaried(name: str, all_runs: dict[str, Runs], headline: str) -> Comparison | None:
    """A variant with its method as configured, where that is not its baseline."""
    record = _first(all_runs[name])
    if record is None or not (record.regularizers and record.variant):
        return None
    return _difference(record, record.method, all_runs, headline)


def _plain(record: RunRecord, all_runs: dict[str, Runs]) -> str:
    """The row without this one's regularizers that shares its other settings; else that of the method as configured."""
    name = baseline_of(record)
    rows = {row: one for row, runs in all_runs.items() if (one := _first(runs)) and one.method == name}
    same = [row for row, one in rows.items() if not other_settings(record, one)]
    return name if name in same or not same else same[0]


def _first(runs: Runs) -> RunRecord | None:
    return next(iter(runs.by_seed.values()), None)


def _difference(record: RunRecord, other: str, all_runs: dict[str, Runs], headline: str) -> Comparison | None:
    name = name_of(record)
    if other not in all_runs:
        return None
    runs, others = all_runs[name].by_seed, all_runs[other].by_seed
    seeds = tuple(seed for seed in runs if seed in others)
    gains = [runs[seed].metrics[headline] - others[seed].metrics[headline] for seed in seeds]
    changed = other_settings(record, others[seeds[0]]) if seeds else ()
    return Comparison(name, other, seeds, summarize(gains), changed)


def other_settings(record: RunRecord, baseline: RunRecord) -> tuple[str, ...]:
    """Settings that differ besides the trainer's name and the nodes of either's regularizers."""
    added = {name.upper() for name in (*record.regularizers, *baseline.regularizers)}
    own_keys = {key for key in {*record.config, *baseline.config} if key.split(".")[0] in added}
    return tuple(differences(record.config, baseline.config, BY_SEED_KEYS | {"TRAINER.NAME"} | own_keys))


def outliers(row: str, columns: Sequence[str], by_seed: dict[int, dict[str, float]]) -> list[Outlier]:
    """Values more than `OUTLIER_POINTS` off the median over the seeds of their column."""
    found = []
    for column in columns:
        values = {seed: metrics[column] for seed, metrics in by_seed.items()}
        median = statistics.median(values.values()) if values else 0.0
        for seed, value in values.items():
            if abs(value - median) > OUTLIER_POINTS:
                found.append(Outlier(row, seed, column, value, median))
    return found
