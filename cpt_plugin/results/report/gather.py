"""What lies below an output folder: records, failed and unfinished runs, features; damaged files are kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpt_plugin.errors import RecordError
from cpt_plugin.results import features
from cpt_plugin.results.features import Features
from cpt_plugin.results.places import Found, read_folder
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.runs import run_of
from cpt_plugin.results.store import JOURNAL, Failure, load_failures


@dataclass(frozen=True)
class Gathered:
    """All that a report is made from.

    damaged: files that cannot be read, and why; failures: runs that ended without a record and have none now;
    unfinished: folders of runs that were begun; features: those of runs that have a record; not_shown: lines on
    imported logs that make no run.
    """

    folder: Path
    found: tuple[Found, ...]
    damaged: tuple[tuple[Path, str], ...]
    failures: tuple[Failure, ...]
    unfinished: tuple[Path, ...]
    features: tuple[Features, ...]
    not_shown: tuple[str, ...] = ()

    @property
    def records(self) -> list[RunRecord]:
        """The records alone."""
        return [one.record for one in self.found]


def gather(folder: Path) -> Gathered:
    """Look through a folder at any depth; records as :func:`read_folder` finds them.

    Raises:
        RecordError: the folder is missing, or nothing of all this is in it.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder")
    not_shown: list[str] = []
    found, wrong = read_folder(folder, not_shown)
    damaged = [(path, str(error).removeprefix(f"{path}: ")) for path, error in wrong]
    kept: list[Features] = []
    records = {(one.file.parent, one.record.prompts_hash): one.record for one in found}
    for path in sorted(folder.rglob(features.FILE)):
        try:
            one = features.load(path)
            record = records.get((path.parent, one.prompts_hash))
            kept += [one.of(record)] if record else []
        except RecordError as error:
            damaged.append((path, str(error).removeprefix(f"{path}: ")))
    finished = {run_of(one.record) for one in found}
    journals = [failure for path in sorted(folder.rglob(JOURNAL)) for failure in load_failures(path.parent)]
    last = {run_of(failure): failure for failure in journals}
    failures = tuple(failure for key, failure in last.items() if key not in finished)
    begun = [path.parent for path in sorted(folder.rglob("run.json"))]
    unfinished = tuple(place for place in begun if not any(place.glob("record*.json")))
    if not (found or damaged or failures or unfinished):
        raise RecordError(f"{folder}: no records and no begun runs there: nothing to report")
    ordered = tuple(sorted(found, key=_order))
    return Gathered(folder, ordered, tuple(damaged), failures, unfinished, tuple(kept), tuple(not_shown))


def _order(one: Found) -> tuple[object, ...]:
    record = one.record
    place = record.dataset, -record.tau, record.protocol
    return *place, record.method, record.variant, record.seed, str(one.file)
