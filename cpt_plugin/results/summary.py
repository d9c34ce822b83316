"""From the records of one data set and one tau to the numbers of a table; refuses what must not be mixed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cpt_plugin.config_identity import NEUTRAL_KEYS, differences
from cpt_plugin.errors import RecordError
from cpt_plugin.methods import ZEROSHOT
from cpt_plugin.results.groups import GROUPS
from cpt_plugin.results.record import Accuracy, Backbone, RunRecord
from cpt_plugin.results.stats import Summary, summarize

OUTLIER_POINTS = 5.0
ACCURACIES = ("base", "new", "H")
COLUMNS = (*ACCURACIES, "worst", *GROUPS)

_SHARED: dict[str, Callable[[RunRecord], object]] = {
    "dataset": lambda record: record.dataset,
    "tau": lambda record: record.tau,
    "class_order": lambda record: record.class_order,
    "shots": lambda record: record.shots,
    "protocol": lambda record: record.protocol,
    "toolkit": lambda record: record.toolkit,
    "backbone": lambda record: f"{record.backbone.name} {record.backbone.digest[:12]}",
}
_SEED_KEYS = NEUTRAL_KEYS | {"SEED"}


@dataclass(frozen=True)
class Row:
    """One method: its accuracy by seed and the summary of each column (None: no run, or an empty group)."""

    method: str
    expected: int
    by_seed: dict[int, Accuracy]
    missing: tuple[int, ...]
    columns: dict[str, Summary | None]


@dataclass(frozen=True)
class Comparison:
    """H of a method minus H of its baseline over the seeds both have; the settings that differ besides."""

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
    """Everything a renderer prints. `group_sizes` holds the numbers of classes that occur (mostly one)."""

    dataset: str
    tau: float
    realized_taus: tuple[float, ...]
    class_order: str
    shots: int
    protocol: str
    toolkit: str
    backbone: Backbone
    devices: tuple[str, ...]
    torch_versions: tuple[str, ...]
    seeds: tuple[int, ...]
    group_sizes: dict[str, tuple[int, ...]]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    outliers: tuple[Outlier, ...]


def baseline_of(record: RunRecord) -> str:
    """Name of the same method without its regularizers."""
    return record.method.removesuffix("".join(f"_{name}" for name in record.regularizers))


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
    _check_shared(ordered)
    _check_splits(ordered)
    expected = tuple(sorted(set(seeds))) or tuple(sorted({record.seed for record in ordered}))
    names = list(dict.fromkeys([*methods, *(record.method for record in ordered)]))
    runs = {name: _by_seed(name, ordered, expected) for name in names}
    rows = tuple(_row(name, runs[name], expected, ordered[0].class_order) for name in names)
    first = ordered[0]
    return Table(
        first.dataset,
        first.tau,
        tuple(sorted({record.realized_tau for record in ordered})),
        first.class_order,
        first.shots,
        first.protocol,
        first.toolkit,
        first.backbone,
        tuple(sorted({record.device for record in ordered})),
        tuple(sorted({record.versions.get("torch", "unknown") for record in ordered})),
        expected,
        {group: tuple(sorted({record.groups[group].classes for record in ordered})) for group in GROUPS},
        rows,
        tuple(found for name in names if (found := _comparison(runs[name], runs)) is not None),
        tuple(outlier for row in rows for outlier in _outliers(row)),
    )


def _row_order(record: RunRecord) -> tuple[bool, str, int, str]:
    return record.method != ZEROSHOT, baseline_of(record), len(record.regularizers), record.method


def _check_shared(records: Sequence[RunRecord]) -> None:
    complaints = []
    for key, value_of in _SHARED.items():
        owners: dict[object, str] = {}
        for record in records:
            owners.setdefault(value_of(record), f"{record.method} seed {record.seed}")
        if len(owners) > 1:
            complaints.append(f"{key}: " + ", ".join(f"{value} ({who})" for value, who in owners.items()))
    if complaints:
        raise RecordError(f"records of one table differ in {'; '.join(complaints)}: make one table for each")


def _check_splits(records: Sequence[RunRecord]) -> None:
    seen: dict[int, RunRecord] = {}
    for record in records:
        other = seen.setdefault(record.seed, record)
        for part in ("base", "new"):
            if getattr(other.split_hash, part) != getattr(record.split_hash, part):
                raise RecordError(
                    f"split_hash.{part}: {other.method} and {record.method} saw different images under "
                    f"seed {record.seed}: run one of them again on the same split"
                )


def _by_seed(method: str, records: Sequence[RunRecord], expected: Sequence[int]) -> dict[int, RunRecord]:
    runs: dict[int, RunRecord] = {}
    for record in records:
        if record.method != method:
            continue
        if record.seed in runs:
            raise RecordError(f"{method} has two records for seed {record.seed}: keep one")
        if record.seed not in expected:
            raise RecordError(f"{method} has a record for seed {record.seed}, not among {list(expected)}")
        runs[record.seed] = record
        first = next(iter(runs.values()))
        changed = differences(first.config, record.config, ignore=_SEED_KEYS)
        if changed:
            raise RecordError(
                f"{method}: seeds {first.seed} and {record.seed} ran under different configurations: "
                f"{'; '.join(changed)}: run one of them again"
            )
    return runs


def _row(method: str, runs: dict[int, RunRecord], expected: Sequence[int], class_order: str) -> Row:
    one_is_enough = method == ZEROSHOT and class_order == "label"
    missing = () if one_is_enough and runs else tuple(seed for seed in expected if seed not in runs)
    columns = {}
    for column in COLUMNS:
        values = [_value(record, column) for record in runs.values()]
        present = [value for value in values if value is not None]
        columns[column] = summarize(present) if len(present) == len(values) else None
    by_seed = {seed: record.accuracy for seed, record in runs.items()}
    return Row(method, len(runs) + len(missing), by_seed, missing, columns)


def _value(record: RunRecord, column: str) -> float | None:
    if column == "worst":
        return record.worst_class.accuracy if record.worst_class else None
    if column in record.groups:
        return record.groups[column].accuracy
    return float(getattr(record.accuracy, column))


def _comparison(runs: dict[int, RunRecord], all_runs: dict[str, dict[int, RunRecord]]) -> Comparison | None:
    record = next(iter(runs.values()), None)
    if record is None or not record.regularizers:
        return None
    baseline = baseline_of(record)
    others = all_runs.get(baseline, {})
    seeds = tuple(seed for seed in runs if seed in others)
    gains = [runs[seed].accuracy.H - others[seed].accuracy.H for seed in seeds]
    changed = _other_settings(record, others[seeds[0]]) if seeds else ()
    return Comparison(record.method, baseline, seeds, summarize(gains), changed)


def _other_settings(record: RunRecord, baseline: RunRecord) -> tuple[str, ...]:
    """Settings that differ besides the trainer's name and the regularizers' own nodes."""
    added = {name.upper() for name in record.regularizers}
    own_keys = {key for key in {*record.config, *baseline.config} if key.split(".")[0] in added}
    ignore = _SEED_KEYS | {"TRAINER.NAME"} | own_keys
    return tuple(differences(record.config, baseline.config, ignore))


def _outliers(row: Row) -> list[Outlier]:
    found = []
    for column in ACCURACIES:
        values = {seed: float(getattr(accuracy, column)) for seed, accuracy in row.by_seed.items()}
        median = statistics.median(values.values()) if values else 0.0
        for seed, value in values.items():
            if abs(value - median) > OUTLIER_POINTS:
                found.append(Outlier(row.method, seed, column, value, median))
    return found
