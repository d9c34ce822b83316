"""One run, one record (schema v2): every number a table needs, and what it takes to get it again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cpt_plugin._schema import SchemaError, decode
from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.config_identity import config_hash
from cpt_plugin.errors import RecordError
from cpt_plugin.results.groups import GROUPS, GroupAccuracy, WorstClass
from cpt_plugin.results.stats import harmonic_mean

SCHEMA = 2
BASE_TO_NEW = "base_to_new"
_TOLERANCE = 1e-6
_REMEDY = "repeat the run, or delete the record"


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

    @classmethod
    def of(cls, base: float, new: float) -> Accuracy:
        """Accuracy from the two percentages, H computed."""
        return cls(base, new, harmonic_mean(base, new))

    @classmethod
    def from_classes(cls, base: Iterable[ClassResult], new: Iterable[ClassResult]) -> Accuracy:
        """Accuracy over all test images of the base classes and of the new classes."""
        return cls.of(_micro(base), _micro(new))


@dataclass(frozen=True)
class ClassResults:
    """Results in label order, once for the base classes and once for the new ones."""

    base: tuple[ClassResult, ...]
    new: tuple[ClassResult, ...]


@dataclass(frozen=True)
class SplitHashes:
    """Digests of the image lists: base (train, validation and test) and new (test)."""

    base: str
    new: str


@dataclass(frozen=True)
class GitState:
    """Commit the code came from and whether tracked files were changed; None outside a repository."""

    commit: str | None
    dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run. Accuracies are percentages; `groups` and `worst_class` describe the base classes.

    tau: ratio min / max training images asked for; realized_tau: the one that came out.
    losses: named loss parts, mean over the last epoch (empty for zero-shot); timings: seconds by phase.
    history: an entry an epoch with the mean of all logged values and the degrees of neural collapse.
    prompts_hash: SHA-256 of the trained prompts, "" where nothing is trained.
    config: dotted key -> plain value, with config_hash = `config_hash(config)`.
    cluster_hash: digest of the class -> cluster map, "" without clusters; created: UTC, ISO 8601.
    """

    method: str
    prompt_learner: str
    regularizers: tuple[str, ...]
    dataset: str
    tau: float
    realized_tau: float
    class_order: str
    shots: int
    seed: int
    protocol: str
    toolkit: str
    backbone: Backbone
    accuracy: Accuracy
    groups: dict[str, GroupAccuracy]
    worst_class: WorstClass | None
    per_class: ClassResults
    losses: dict[str, float]
    history: tuple[dict[str, float], ...]
    prompts_hash: str
    timings: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    split_hash: SplitHashes
    cluster_hash: str
    versions: dict[str, str]
    git: GitState
    device: str
    precision: str
    created: str


def save(record: RunRecord, path: str | Path) -> None:
    """Write the record as JSON, a field a line, all of it or nothing; the folder is made when missing.

    Raises RecordError for a record that `load` would refuse.
    """
    path = Path(path)
    plain = {"schema": SCHEMA, **dataclasses.asdict(record)}
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
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path}: is not JSON ({error}): {_REMEDY}") from error
    try:
        return _decode_record(plain)
    except SchemaError as error:
        raise RecordError(f"{path}: {error}: {_REMEDY}") from error


def _micro(results: Iterable[ClassResult]) -> float:
    results = list(results)
    total = sum(result.total for result in results)
    return 100 * sum(result.correct for result in results) / total if total else 0.0


def _decode_record(plain: Any) -> RunRecord:
    if not isinstance(plain, dict):
        raise SchemaError("", "expected an object")
    if plain.get("schema") != SCHEMA:
        raise SchemaError("schema", f"expected {SCHEMA}, found {plain.get('schema')!r}")
    record: RunRecord = decode(RunRecord, {key: value for key, value in plain.items() if key != "schema"})
    _check_ratios(record)
    _check_accuracy(record)
    if set(record.groups) != set(GROUPS):
        raise SchemaError("groups", f"expected {', '.join(GROUPS)}, found {', '.join(record.groups)}")
    if record.config_hash != config_hash(record.config):
        raise SchemaError("config_hash", "is not the hash of the configuration in the record")
    return record


def _check_ratios(record: RunRecord) -> None:
    for name in ("tau", "realized_tau"):
        if not 0 < getattr(record, name) <= 1:
            raise SchemaError(name, f"{getattr(record, name)} is not in (0, 1]")


def _check_accuracy(record: RunRecord) -> None:
    for part in ("base", "new"):
        results, value = getattr(record.per_class, part), getattr(record.accuracy, part)
        for index, result in enumerate(results):
            if not 0 <= result.correct <= result.total:
                raise SchemaError(f"per_class.{part}[{index}]", f"{result.correct} of {result.total} correct")
        if not 0 <= value <= 100:
            raise SchemaError(f"accuracy.{part}", f"{value} is not a percentage")
        if results and not math.isclose(value, _micro(results), abs_tol=_TOLERANCE):
            raise SchemaError(f"accuracy.{part}", f"is {value}, but the classes give {_micro(results)}")
    expected = harmonic_mean(record.accuracy.base, record.accuracy.new)
    if not math.isclose(record.accuracy.H, expected, abs_tol=_TOLERANCE):
        raise SchemaError("accuracy.H", f"is {record.accuracy.H}, but base and new give {expected}")
