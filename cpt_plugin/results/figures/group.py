"""The runs that belong into one figure: those of one table, refused where the table would be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cpt_plugin.errors import RecordError
from cpt_plugin.long_tail import shots_in_words
from cpt_plugin.results.imported_records import apart, is_imported
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.runs import REHEARSAL, key_of, means_nothing, name_of
from cpt_plugin.results.summary import Table, build_table
from cpt_plugin.results.text import listed, shown_tau

Place = tuple[str, float | str, str]
"""Data set, tau (or `natural`), protocol."""


@dataclass(frozen=True)
class Group:
    """The runs of one data set, tau and protocol.

    table: their table; runs: by its rows, in the order of the seeds.
    """

    table: Table
    runs: dict[str, tuple[RunRecord, ...]]

    @property
    def place(self) -> Place:
        """Data set, tau (or `natural`), protocol."""
        return place_of(next(run for runs in self.runs.values() for run in runs))

    @property
    def title(self) -> str:
        """What all its figures say above."""
        shots = f", {self.table.shots} shots, {self.table.backbone.name}" if is_imported(self.table.toolkit) else ""
        return title_of(self.place) + shots

    @property
    def plain(self) -> dict[str, tuple[RunRecord, ...]]:
        """The runs of methods as configured, without their variants."""
        found = {name: runs for name, runs in self.runs.items() if runs and not runs[0].variant}
        return found or {name: runs for name, runs in self.runs.items() if runs}

    @property
    def is_rehearsal(self) -> bool:
        """Whether the accuracies mean nothing."""
        return means_nothing(self.table.backbone.name, self.table.dataset)

    def notes(self, names: Iterable[str] | None = None) -> list[str]:
        """What a figure of some rows must say: on which seeds they rest, and which are missing."""
        shown = [row for row in self.table.rows if names is None or row.method in names]
        shots = shots_in_words(self.table.shots)
        seeds = f"seeds {listed(self.table.seeds)}; {shots}; backbone {self.table.backbone.name}"
        doubt = [REHEARSAL] if self.is_rehearsal else []
        doubt += [f"training images BY SCHEDULE, not read from the data: {listed(names)}"
                  for names in [self.table.by_schedule] if names]  # fmt: skip
        return [seeds, *doubt, *(f"missing: {row.method}, seeds {listed(row.missing)}" for row in shown if row.missing)]


def by_table(records: Iterable[RunRecord]) -> dict[tuple[Place, tuple[object, ...]], list[RunRecord]]:
    """The records of each table, in order."""
    found: dict[tuple[Place, tuple[object, ...]], list[RunRecord]] = {}
    for record in sorted(records, key=lambda one: (one.dataset, -one.tau, one.protocol)):
        found.setdefault((place_of(record), apart(record)), []).append(record)
    return found


def group_records(
    records: Iterable[RunRecord], seeds: Sequence[int] = ()
) -> tuple[list[Group], dict[Place, str]]:
    """All groups in order, and for those that no table could be made of the reason by place.

    seeds: those expected of every run; by default all that occur in a group.
    """
    groups, refused = [], {}
    for (place, _), members in by_table(records).items():
        try:
            table = build_table(members, seeds=seeds)
        except RecordError as error:
            refused[place] = str(error)
            continue
        runs = {
            row.method: tuple(sorted((r for r in members if name_of(r) == row.method), key=lambda r: r.seed))
            for row in table.rows
        }
        groups.append(Group(table, runs))
    return groups, refused


def place_of(record: RunRecord) -> Place:
    """The table that a run belongs to."""
    return key_of(record)[2:]


def title_of(place: Place) -> str:
    """A place in words."""
    dataset, _, protocol = place
    return f"{dataset}, {tail_of(place)}, {protocol.replace('_', ' ')}"


def tail_of(place: Place) -> str:
    """The tail of a place in words."""
    tau = place[1]
    return tau if isinstance(tau, str) else f"tau {shown_tau(tau)}"
