"""Records from wherever they lie: folders, record files, JSON lines."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cpt_plugin.errors import RecordError
from cpt_plugin.results.imported_records import as_records, read_imported
from cpt_plugin.results.record import RunRecord, load
from cpt_plugin.results.runs import Key, run_of
from cpt_plugin.results.store import JOURNAL, is_lines, is_of_logs, is_of_others, read_lines


@dataclass(frozen=True)
class Found:
    """A record and the file that holds it."""

    record: RunRecord
    file: Path


def load_all(
    places: Iterable[str | Path], damaged: list[str] | None = None, imported: list[str] | None = None
) -> list[RunRecord]:
    """All records in folders (as :func:`read_folder` finds them), single record files and files of JSON lines.

    damaged: takes what is wrong with files in folders, which are then passed over. imported: asks for the runs of
    imported logs as well (:func:`as_records`), and takes what to say of the others.

    Raises:
        RecordError: a place is missing or a record damaged (file and line named), or imported figures are among them
            that were not asked for.
    """
    found: list[RunRecord] = []
    for place in map(Path, places):
        if place.is_dir():
            inside, wrong = read_folder(place, imported)
            found += [one.record for one in inside]
            if damaged is not None:
                damaged += [str(error) for _, error in wrong]
            elif wrong:
                raise wrong[0][1]
        else:
            found += _read_file(place, imported)
    return found


def _read_file(path: Path, imported: list[str] | None) -> list[RunRecord]:
    if imported is not None and is_lines(path) and is_of_logs(path):
        records, said = as_records(read_imported(path))
        imported += said
        return records
    return read_lines(path) if is_lines(path) else [_load_file(path)]


def _load_file(path: Path) -> RunRecord:
    if path.suffix != ".json" and path.exists():
        raise RecordError(f"{path}: is neither a folder nor a .json, .jsonl or .jsonl.gz of records")
    return load(path)


def read_folder(
    folder: Path, imported: list[str] | None = None
) -> tuple[list[Found], list[tuple[Path, RecordError]]]:
    """Records below a folder, at any depth, and the files that are damaged, with their errors.

    ``record*.json`` come first. JSON lines (``*.jsonl``, ``*.jsonl.gz``) tell of the runs that have no such file there;
    files that begin with anything else, and what is hidden, are passed over. A record that lies there twice, but for
    its history, counts once. imported: as for :func:`load_all`.
    """
    found: list[Found] = []
    damaged: list[tuple[Path, RecordError]] = []
    seen: dict[tuple[Key, int], list[RunRecord]] = defaultdict(list)

    def add(records: Iterable[RunRecord], path: Path) -> None:
        for record in records:
            short = dataclasses.replace(record, history=())
            if short not in seen[run_of(record)]:
                seen[run_of(record)].append(short)
                found.append(Found(record, path))

    for path in sorted(folder.rglob("record*.json")):
        try:
            add([load(path)], path)
        except RecordError as error:
            damaged.append((path, error))
    own = {run_of(one.record) for one in found}
    for path in sorted(path for path in folder.rglob("*.jsonl*") if is_lines(path) and path.is_file()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.name == JOURNAL:
            continue
        if is_of_others(path) and not (imported is not None and is_of_logs(path)):
            continue
        try:
            add([record for record in _read_file(path, imported) if run_of(record) not in own], path)
        except RecordError as error:
            damaged.append((path, error))
    return found, damaged
