"""One run, one record (schema 4): every number a table needs, and what it takes to get it again.

A record holds one training and any number of evaluations by name: ``base`` and ``new``; ``all``; ``source`` and the
targets. Records of schema 2, which knew base-to-new only, and 3, which did not tell how many images of each class
were trained on, are converted when they are read (:mod:`cpt_plugin.results.older`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from cpt_plugin import metrics
from cpt_plugin._schema import SchemaError, decode
from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.config_identity import config_hash
from cpt_plugin.errors import RecordError
from cpt_plugin.long_tail import realized_tau
from cpt_plugin.protocols import BASE_TO_NEW, FEW_SHOT_ALL, PROTOCOLS, SOURCE, in_order
from cpt_plugin.results.groups import GROUPS, Bands, GroupAccuracy, WorstClass, group_accuracies, ranks_of, worst_class
from cpt_plugin.results.older import BY_SCHEDULE, COUNTS_FROM, DERIVED, FROM_DATA, SCHEMA, converted
from cpt_plugin.results.stats import harmonic_mean

BY_CLASS = ("balanced_accuracy", "macro_f1", "g_mean", "ece")
"""Metrics of the classes trained on, in percent, besides their accuracy: see :mod:`cpt_plugin.metrics`."""
LOWER_IS_BETTER = frozenset({"ece"})
_TOLERANCE = 1e-6
_REMEDY = "repeat the run, or delete the record"
_IN_CONFIG = {
    "seed": "SEED",
    "tau": "DATASET.IMBALANCE_TAU",
    "shots": "DATASET.NUM_SHOTS",
    "class_order": "DATASET.CLASS_ORDER",
}
"""Fields that repeat what the configuration says, where it says it."""


class ClassResult(NamedTuple):
    """Test images of one class."""

    name: str
    correct: int
    total: int


@dataclass(frozen=True)
class Backbone:
    """The frozen CLIP model: its name and the SHA-256 of its weights file."""

    name: str
    digest: str


@dataclass(frozen=True)
class Accuracy:
    """Percent of the test images, not rounded; H is the harmonic mean of base and new."""

    base: float
    new: float
    H: float


@dataclass(frozen=True)
class Evaluation:
    """The trained prompts on the test images of ``classes`` (base, new or all) of one data set.

    accuracy: percent of the images, not rounded; per_class: in label order; split_hash: digest of the image lists.
    predicted: images taken for each class, in label order; ece: expected calibration error in percent
    (:func:`~cpt_plugin.metrics.expected_calibration_error`); both None in records that do not know them.
    """

    dataset: str
    classes: str
    accuracy: float
    per_class: tuple[ClassResult, ...]
    split_hash: str
    predicted: tuple[int, ...] | None = None
    ece: float | None = None

    @classmethod
    def of(
        cls,
        dataset: str,
        classes: str,
        per_class: Sequence[ClassResult],
        split_hash: str,
        predicted: Sequence[int] | None = None,
        ece: float | None = None,
    ) -> Evaluation:
        """The evaluation with these results, its accuracy over all images."""
        claimed = None if predicted is None else tuple(predicted)
        return cls(dataset, classes, _over_images(per_class), tuple(per_class), split_hash, claimed, ece)

    @property
    def tested(self) -> list[tuple[int, int]]:
        """(correct, total) of each class, in label order."""
        return [(result.correct, result.total) for result in self.per_class]

    @cached_property
    def by_class(self) -> dict[str, float | None]:
        """The metrics :data:`BY_CLASS`; None for those that the record does not know."""
        return {
            "balanced_accuracy": metrics.balanced_accuracy(self.tested),
            "macro_f1": None if self.predicted is None else metrics.macro_f1(self.tested, self.predicted),
            "g_mean": metrics.g_mean(self.tested),
            "ece": self.ece,
        }


@dataclass(frozen=True)
class GitState:
    """Commit the code came from and whether tracked files were changed; None outside a repository."""

    commit: str | None
    dirty: bool | None

    def shown(self, digits: int | None = None) -> str:
        """The commit, or its first digits, in words."""
        return f"{(self.commit or 'unknown')[:digits]}{' with changed files' if self.dirty else ''}"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run. Accuracies are percentages; `groups` and `worst_class` describe the classes trained on.

    variant: settings that set the run apart from the plain one of its method, as its folder names them; mostly "".
    evaluations: by name, the classes trained on first.
    tau: ratio min / max training images asked for; realized_tau: the one that came out.
    class_counts: training images of each class trained on, after all sampling, in label order; counts_from: how they
    are known (``COUNTS_FROM``); bands: what many, medium and few mean for this data set. All that speaks of frequent
    and rare classes follows from these.
    selection: how the prompts that were tested were chosen among the epochs; "" where the record does not tell.
    parts_without_gradient: parts of the loss that could not change any prompt.
    losses: named loss parts, mean over the last epoch (empty for zero-shot); timings: seconds by phase.
    history: an entry an epoch with the mean of all logged values and the degrees of neural collapse.
    prompts_hash: SHA-256 of the trained prompts, "" where nothing is trained.
    config: dotted key -> plain value, with config_hash = `config_hash(config)`.
    cluster_hash: digest of the class -> cluster map, "" without clusters; created: UTC, ISO 8601.
    """

    method: str
    prompt_learner: str
    regularizers: tuple[str, ...]
    variant: str
    dataset: str
    tau: float
    realized_tau: float
    class_counts: tuple[int, ...]
    counts_from: str
    bands: Bands
    class_order: str
    shots: int
    seed: int
    protocol: str
    toolkit: str
    backbone: Backbone
    evaluations: dict[str, Evaluation]
    groups: dict[str, GroupAccuracy]
    worst_class: WorstClass | None
    losses: dict[str, float]
    history: tuple[dict[str, float], ...]
    selection: str
    parts_without_gradient: tuple[str, ...]
    prompts_hash: str
    timings: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    cluster_hash: str
    versions: dict[str, str]
    git: GitState
    device: str
    precision: str
    created: str

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracy by evaluation, and what sums them up: ``H`` (base-to-new), ``mean`` of the targets (transfer)."""
        values = {name: evaluation.accuracy for name, evaluation in self.evaluations.items()}
        if self.protocol == BASE_TO_NEW:
            return values | {"H": harmonic_mean(values["base"], values["new"])}
        targets = [value for name, value in values.items() if name != SOURCE]
        return values if self.protocol == FEW_SHOT_ALL else values | {"mean": fmean(targets)}

    @property
    def trained(self) -> Evaluation:
        """The evaluation of the classes trained on."""
        return next(iter(self.evaluations.values()))

    @property
    def ranks(self) -> list[int]:
        """Frequency rank of each class trained on, by label: 0 for the most training images."""
        return ranks_of(self.class_counts)

    @property
    def by_schedule(self) -> bool:
        """Whether `class_counts` are what the schedule asked for, and may not be what the data held."""
        return self.counts_from == BY_SCHEDULE

    @property
    def accuracy(self) -> Accuracy:
        """Base, new and H; for base-to-new only."""
        return Accuracy(**self.metrics)


def save(record: RunRecord, path: str | Path) -> None:
    """Write the record as JSON, a field a line, all of it or nothing; the folder is made when missing.

    Raises RecordError for a record that `load` would refuse.
    """
    path = Path(path)
    plain = to_plain(record)
    try:
        _decode_record(plain)
        lines = [f" {json.dumps(key)}: {json.dumps(plain[key], allow_nan=False)}" for key in plain]
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path}: not written: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load(path: str | Path) -> RunRecord:
    """Read and check a record.

    Raises RecordError naming the file and the field that is missing, unknown, mistyped or contradictory.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: is not JSON ({error}): {_REMEDY}") from error
    return from_plain(plain_json(text, str(path)), str(path))


def plain_json(text: str, origin: str) -> Any:
    """The plain values in a JSON text; `origin` names it in the RecordError for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{origin}: is not JSON ({error}): {_REMEDY}") from error


def to_plain(record: RunRecord) -> dict[str, Any]:
    """The record as plain JSON values, its schema's number included."""
    return {"schema": SCHEMA, **dataclasses.asdict(record)}


def from_plain(plain: Any, origin: str) -> RunRecord:
    """The record in plain JSON values; `origin` names them in errors, which are those of `load`."""
    try:
        return _decode_record(plain)
    except SchemaError as error:
        raise RecordError(f"{origin}: {error}: {_REMEDY}") from error


def _over_images(results: Sequence[ClassResult]) -> float:
    total = sum(result.total for result in results)
    return 100 * sum(result.correct for result in results) / total if total else 0.0


def _decode_record(plain: Any) -> RunRecord:
    if not isinstance(plain, dict):
        raise SchemaError("", "expected an object")
    plain = converted(plain)
    if plain.get("schema") != SCHEMA:
        raise SchemaError("schema", f"expected {SCHEMA}, found {plain.get('schema')!r}")
    record: RunRecord = decode(RunRecord, {key: value for key, value in plain.items() if key != "schema"})
    _check_ratios(record)
    _check_evaluations(record)
    names = in_order(record.protocol, record.dataset, record.evaluations)
    record = dataclasses.replace(record, evaluations={name: record.evaluations[name] for name in names})
    _check_counts(record)
    if record.counts_from == DERIVED and record.class_order != "label":
        # Ranked by the schedule: of classes with as many images, another one may have been the more frequent.
        groups = group_accuracies(record.trained.tested, record.class_counts, record.bands)
        record = dataclasses.replace(record, groups=groups)
    _check_groups(record)
    _check_config(record)
    return record


def _check_config(record: RunRecord) -> None:
    try:
        json.dumps(record.config, allow_nan=False)
    except ValueError:
        raise SchemaError("config", "holds a number that is not finite") from None
    if record.config_hash != config_hash(record.config):
        raise SchemaError("config_hash", "is not the hash of the configuration in the record")
    for name, key in _IN_CONFIG.items():
        if key in record.config and record.config[key] != getattr(record, name):
            raise SchemaError(name, f"is {getattr(record, name)!r}, but {key} is {record.config[key]!r}")


def _check_groups(record: RunRecord) -> None:
    """The groups as far as the record tells, and the worst of the classes trained on."""
    if set(record.groups) != set(GROUPS):
        raise SchemaError("groups", f"expected {', '.join(GROUPS)}, found {', '.join(record.groups)}")
    for name, group in record.groups.items():
        value = group.accuracy
        if group.classes < 0 or (value is None) != (group.classes == 0) or not 0 <= (value or 0) <= 100:
            raise SchemaError(f"groups.{name}", f"{value} % of {group.classes} classes cannot be")
    trained = record.trained
    if not record.by_schedule:
        for name, group in group_accuracies(trained.tested, record.class_counts, record.bands).items():
            if group.classes != record.groups[name].classes or not _close(group.accuracy, record.groups[name].accuracy):
                raise SchemaError(f"groups.{name}", f"is {record.groups[name]}, but the classes give {group}")
    worst = worst_class([one.name for one in trained.per_class], trained.tested)
    if worst is None or record.worst_class is None or not math.isclose(
        worst.accuracy, record.worst_class.accuracy, abs_tol=_TOLERANCE
    ):
        raise SchemaError("worst_class", f"is {record.worst_class}, but the classes give {worst}")


def _check_counts(record: RunRecord) -> None:
    """The training images by class, as far as the record tells."""
    counts, tested = record.class_counts, record.trained.per_class
    if record.counts_from not in COUNTS_FROM:
        raise SchemaError("counts_from", f"expected one of {', '.join(COUNTS_FROM)}, found {record.counts_from!r}")
    if len(counts) != len(tested):
        raise SchemaError("class_counts", f"has {len(counts)} classes, but {len(tested)} are tested")
    if not any(counts) or min(counts) < 0:
        raise SchemaError("class_counts", f"{min(counts)} to {max(counts)} training images cannot be")
    ratio = realized_tau(counts)
    if record.counts_from == FROM_DATA and not math.isclose(ratio, record.realized_tau, abs_tol=_TOLERANCE):
        raise SchemaError("realized_tau", f"is {record.realized_tau}, but class_counts give {ratio}")
    if record.bands.few_up_to >= record.bands.many_from:
        raise SchemaError("bands", f"{record.bands} overlap")


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, abs_tol=_TOLERANCE)


def _check_ratios(record: RunRecord) -> None:
    for name in ("tau", "realized_tau"):
        if not 0 < getattr(record, name) <= 1:
            raise SchemaError(name, f"{getattr(record, name)} is not in (0, 1]")


def _check_evaluations(record: RunRecord) -> None:
    names = set(record.evaluations)
    if record.protocol not in PROTOCOLS:
        raise SchemaError("protocol", f"expected one of {', '.join(PROTOCOLS)}, found {record.protocol!r}")
    fixed = {BASE_TO_NEW: {"base", "new"}, FEW_SHOT_ALL: {"all"}}.get(record.protocol)
    if names != fixed if fixed else SOURCE not in names or len(names) < 2:
        wanted = " and ".join(sorted(fixed)) if fixed else f"{SOURCE} and targets"
        raise SchemaError("evaluations", f"expected {wanted}, found {', '.join(record.evaluations) or 'none'}")
    for name, evaluation in record.evaluations.items():
        field, value = f"evaluations.{name}", evaluation.accuracy
        for index, result in enumerate(evaluation.per_class):
            if not 0 <= result.correct <= result.total:
                raise SchemaError(f"{field}.per_class[{index}]", f"{result.correct} of {result.total} correct")
        _check_predictions(field, evaluation)
        if not sum(result.total for result in evaluation.per_class):
            raise SchemaError(f"{field}.per_class", "no test image in any class")
        if not math.isclose(value, _over_images(evaluation.per_class), abs_tol=_TOLERANCE):
            found = _over_images(evaluation.per_class)
            raise SchemaError(f"{field}.accuracy", f"is {value}, but the classes give {found}")


def _check_predictions(field: str, evaluation: Evaluation) -> None:
    if evaluation.ece is not None and not 0 <= evaluation.ece <= 100:
        raise SchemaError(f"{field}.ece", f"{evaluation.ece} % cannot be")
    if evaluation.predicted is None:
        return
    tested = evaluation.tested
    fit = len(evaluation.predicted) == len(tested) and all(
        hits <= claimed for (hits, _), claimed in zip(tested, evaluation.predicted, strict=True)
    )
    if not fit or sum(evaluation.predicted) != sum(total for _, total in tested):
        raise SchemaError(f"{field}.predicted", "does not fit the classes' correct and total images")
