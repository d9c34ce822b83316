"""Accuracies out of the field's ``log.txt`` folders: rounded, without provenance, never mixed with records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cpt_plugin.errors import RecordError
from cpt_plugin.results.stats import summarize

MARK = "imported"
_ACCURACY = re.compile(r"\* accuracy: ([0-9]+(?:\.[0-9]+)?)%")


@dataclass(frozen=True)
class ImportedRun:
    """One log: the folder of its experiment, its own folder's name (mostly a seed), accuracy to one decimal.

    accuracy is None for a run that did not get so far as to print one.
    """

    experiment: str
    run: str
    accuracy: float | None


def read_logs(folder: str | Path) -> tuple[list[ImportedRun], int]:
    """Every ``<experiment>/<run>/log.txt`` below a folder, and the number of this package's own runs passed over.

    The accuracy is the last one after "Finish training", in the log of an evaluation after "=> result"; validation
    results of a training that did not end are none. Dassl's evaluator prints one decimal, some forks two; one is kept.

    Raises:
        RecordError: there is no such folder, or no log in it.
    """
    folder = Path(folder)
    logs = sorted(folder.rglob("log.txt"))
    if not logs:
        raise RecordError(f"{folder}: no log.txt below it; give the folder above <experiment>/<seed>/log.txt")
    own = [path for path in logs if any((parent / "run.json").is_file() for parent in path.parents[:2])]
    found = []
    for path in logs:
        if path not in own:
            run = path.parent.resolve()
            experiment = path.parent.parent.relative_to(folder).as_posix() if path.parent != folder else run.parent.name
            found.append(ImportedRun(experiment, run.name, _accuracy(path)))
    return found, len(own)


def to_lines(runs: Iterable[ImportedRun]) -> str:
    """JSON lines, each marked as imported."""
    return "".join(json.dumps({MARK: True, **asdict(run)}, sort_keys=True) + "\n" for run in runs)


def describe(runs: Iterable[ImportedRun]) -> str:
    """A line an experiment: finished runs of all, mean and std (ddof 1), t-interval, unfinished runs by name."""
    by_experiment: dict[str, list[ImportedRun]] = {}
    for run in runs:
        by_experiment.setdefault(run.experiment, []).append(run)
    lines = []
    for experiment, members in sorted(by_experiment.items()):
        values = [run.accuracy for run in members if run.accuracy is not None]
        line = f"{experiment}: {len(values)}/{len(members)} runs (imported)"
        if summary := summarize(values):
            line += f", accuracy {summary.mean:.1f}"
            if summary.std is not None and summary.interval:
                low, high = summary.interval
                line += f" ±{summary.std:.1f}, 95 % t-interval [{low:.1f}, {high:.1f}]"
        if unfinished := [run.run for run in members if run.accuracy is None]:
            line += f"; without a result: {', '.join(unfinished)}"
        lines.append(line)
    return "\n".join(lines)


def _accuracy(path: Path) -> float | None:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    trained = any(line.startswith("epoch [") for line in lines)
    marks = ("Finish training", "Finished training") if trained else ("=> result",)
    start = next((index for index, line in enumerate(lines) if line in marks), len(lines))
    values = [match[1] for line in lines[start:] if (match := _ACCURACY.match(line))]
    return round(float(values[-1]), 1) if values else None
