"""Methods compared by pairs of records; refuses what must not be mixed, names what is missing or left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cpt_plugin._names import nearest
from cpt_plugin.config_identity import differences
from cpt_plugin.errors import ConfigError, RecordError
from cpt_plugin.protocols import BASE_TO_NEW, HEADLINES
from cpt_plugin.results.contrast import Contrast, Correction, WorldPairs
from cpt_plugin.results.groups import GROUPS
from cpt_plugin.results.imported_records import NOTE, is_imported
from cpt_plugin.results.record import BY_CLASS, RunRecord
from cpt_plugin.results.runs import (
    BY_SEED_KEYS,
    EVERYWHERE,
    Runs,
    by_schedule,
    check_shared,
    collect,
    name_of,
    other_images,
    split_rehearsals,
)
from cpt_plugin.results.stats import bonferroni, holm
from cpt_plugin.results.summary import metric, other_settings
from cpt_plugin.results.text import shown_tau


@dataclass(frozen=True)
class Question:
    """What to compare: the two methods of every pair in every metric at every tau.

    Methods are named as tables do, ``maple_cpt`` or ``maple_cpt (KEY=VALUE,...)``. metrics: by default the protocol's
    headline; taus, worlds, seeds: by default those that occur, at each tau.
    correction: ``bonferroni``, ``holm`` or ""; count: for Bonferroni, when more comparisons were made than these.
    """

    pairs: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...] = ()
    protocol: str = BASE_TO_NEW
    taus: tuple[float, ...] = ()
    worlds: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    correction: str = ""
    count: int = 0

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods, each once."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair))


@dataclass(frozen=True)
class Comparison:
    """Everything a renderer prints. notes: what is missing, unpaired or without a value, settings that differ."""

    contrasts: tuple[Contrast, ...]
    correction: Correction
    protocol: str
    sample: RunRecord
    devices: tuple[str, ...]
    torch_versions: tuple[str, ...]
    notes: tuple[str, ...]


def compare(records: Iterable[RunRecord], question: Question) -> Comparison:
    """Answer a question from whatever records there are, independently of their order; others are left aside.

    Runs whose accuracies mean nothing (the micro model on photographs) are left out, which is noted.

    Raises:
        ConfigError: a metric that does not exist, a method against itself, or a count below the comparisons made.
        RecordError: a method without records; several toolkits, backbones, shots or class orders; a seed twice, one
            method under several configurations, or methods that saw other images.
    """
    question = replace(question, metrics=question.metrics or (HEADLINES[question.protocol],))
    selected, left_out = _selected(records, question)
    _check_metrics(question.metrics, selected)
    check_shared(selected, EVERYWHERE)
    for complaint in other_images(selected).values():
        raise RecordError(complaint)
    notes: dict[str, None] = dict.fromkeys(left_out)
    if is_imported(selected[0].toolkit):
        notes[NOTE] = None
    if {*question.metrics} & {*GROUPS}:
        notes |= dict.fromkeys(by_schedule(selected))
    contrasts: list[Contrast] = []
    for tau in question.taus or sorted({record.tau for record in selected}, reverse=True):
        at_tau = _AtTau([record for record in selected if record.tau == tau], tau, question, notes)
        for pair in question.pairs:
            at_tau.note(*pair)
            contrasts += [at_tau.contrast(*pair, one) for one in question.metrics]
    correction = _correction(question, len(contrasts))
    p_values = [1.0 if (p := one.p) is None else p for one in contrasts]
    adjusted = p_values
    if correction.method:
        adjusted = holm(p_values) if correction.method == "holm" else bonferroni(p_values, correction.count)
    return Comparison(
        tuple(
            replace(one, correction=correction, p_adjusted=None if one.p is None else p)
            for one, p in zip(contrasts, adjusted, strict=True)
        ),
        correction,
        question.protocol,
        selected[0],
        tuple(sorted({record.device for record in selected})),
        tuple(sorted({record.versions.get("torch", "unknown") for record in selected})),
        tuple(notes),
    )


def _selected(records: Iterable[RunRecord], question: Question) -> tuple[list[RunRecord], list[str]]:
    """The runs that the question is about, and what to say of those whose accuracies mean nothing."""
    for first, second in question.pairs:
        if first == second:
            raise ConfigError(f"'{first}' is compared with itself: name two methods")
    possible = [
        record
        for record in records
        if record.protocol == question.protocol
        and record.tau in (question.taus or (record.tau,))
        and record.dataset in (question.worlds or (record.dataset,))
        and record.seed in (question.seeds or (record.seed,))
    ]
    usable, left_out = split_rehearsals(possible)
    there = sorted({name_of(record) for record in usable})
    for name in question.methods:
        if name not in there:
            where = f"{question.protocol} with the given worlds, taus and seeds"
            near = f"; nearest: '{nearest(name, there)}'; there are: {', '.join(there)}" if there else ""
            rehearsed = f"; {left_out}" if any(name_of(record) == name for record in possible) else ""
            raise RecordError(f"no records of '{name}' for {where}{near}{rehearsed}")
    asked = [record for record in possible if name_of(record) in question.methods]
    found, left_out = split_rehearsals(asked)
    found.sort(key=lambda r: (-r.tau, r.dataset, name_of(r), r.seed, r.config_hash, r.created))
    return found, [left_out] if left_out else []


def _check_metrics(metrics: Sequence[str], records: Sequence[RunRecord]) -> None:
    possible = [*dict.fromkeys(name for record in records for name in record.metrics), "worst", *BY_CLASS, *GROUPS]
    for name in metrics:
        if name not in possible:
            near = f"nearest: '{nearest(name, possible)}'; possible: {', '.join(possible)}"
            raise ConfigError(f"{records[0].protocol} has no metric '{name}' in each world; {near}")


def _correction(question: Question, made: int) -> Correction:
    if question.correction == "bonferroni" and question.count and question.count < made:
        raise ConfigError(
            f"--bonferroni {question.count}, but {made} comparisons are made: give {made} or more, or no number"
        )
    return Correction(question.correction, question.count or made)


class _AtTau:
    """The records of one tau by method and world, checked; adds to the notes."""

    def __init__(
        self, records: Sequence[RunRecord], tau: float, question: Question, notes: dict[str, None]
    ) -> None:
        self.tau, self.notes = tau, notes
        self.worlds = question.worlds or tuple(sorted({record.dataset for record in records}))
        self.seeds = tuple(sorted(question.seeds or {record.seed for record in records}))
        self.runs: dict[tuple[str, str], Runs] = {}
        for world in self.worlds:
            here = [record for record in records if record.dataset == world]
            check_shared(here, {f"evaluations of {world}": lambda record: ", ".join(record.evaluations)})
            for name in question.methods:
                runs = collect(name, [record for record in here if name_of(record) == name], self.seeds)
                for problem in runs.problems:
                    raise RecordError(f"{problem} ({world}, tau {shown_tau(tau)})")
                self.runs[name, world] = runs
        for name in question.methods:
            self._note_worlds(name)

    def note(self, first: str, second: str) -> None:
        """Take down what is missing of two methods, and what differs between them."""
        self._note_unpaired(first, second)
        self._note_code(first, second)
        self._note_settings(first, second)

    def contrast(self, first: str, second: str, name: str) -> Contrast:
        """The pairs of two methods in a metric."""
        worlds, lacking = [], []
        for world in self.worlds:
            pairs = {}
            for seed in self.seeds:
                runs = [_run(self.runs[method, world], seed) for method in (first, second)]
                if runs[0] is None or runs[1] is None:
                    continue
                a, b = _value(runs[0], name), _value(runs[1], name)
                if a is None or b is None:
                    lacking.append(f"{world}, seed {seed}")
                else:
                    pairs[seed] = (a, b)
            worlds.append(WorldPairs(world, pairs, len(self.seeds)))
        if lacking:
            self._list("left out, no such value", f"{first} - {second}, {name}", lacking)
        return Contrast(first, second, name, self.tau, tuple(worlds))

    def _list(self, what: str, whose: str, places: Iterable[str]) -> None:
        self.notes[f"{what}: {whose}, tau {shown_tau(self.tau)}: {'; '.join(places)}"] = None

    def _note_unpaired(self, first: str, second: str) -> None:
        """Runs of one of the two that have no partner, and what both lack."""
        for have, lack in ((first, second), (second, first)):
            if places := self._places(have, lack, True):
                self._list("left out, unpaired", f"{have} without {lack}", places)
        if places := self._places(first, second, False):
            self._list("missing", f"{first} and {second}", places)

    def _places(self, have: str, lack: str, present: bool) -> list[str]:
        """Worlds and seeds without a run of `lack` where `have` has one (present) or has none either."""
        places = []
        for world in self.worlds:
            a, b = self.runs[have, world], self.runs[lack, world]
            seeds = [s for s in self.seeds if (_run(a, s) is not None) is present and _run(b, s) is None]
            if seeds:
                which = "all seeds" if len(seeds) == len(self.seeds) else f"seeds {', '.join(map(str, seeds))}"
                places.append(f"{world} ({which})")
        return places

    def _note_code(self, first: str, second: str) -> None:
        """Other versions of torch, or another commit, behind one of the two."""
        made = [self._made(name) for name in (first, second)]
        if made[0] and made[1] and made[0] != made[1]:
            who = f"{first} by {made[0]}; {second} by {made[1]}"
            self.notes[f"made differently, tau {shown_tau(self.tau)}: {who}"] = None

    def _note_settings(self, first: str, second: str) -> None:
        """Settings that differ between the two of a pair besides their parts' own, where the learner is the same."""
        for world in self.worlds:
            a, b = (next(iter(self.runs[name, world].by_seed.values()), None) for name in (first, second))
            if a and b and a.prompt_learner == b.prompt_learner:
                for line in other_settings(a, b):
                    self.notes[f"{first} and {second} also differ in {line}"] = None

    def _made(self, name: str) -> str:
        """Versions of torch and commits that a method's runs were made with."""
        runs = [run for world in self.worlds for run in self.runs[name, world].by_seed.values()]
        found = {f"torch {run.versions.get('torch', 'unknown')}, commit {run.git.shown(10)}" for run in runs}
        return " and ".join(sorted(found))

    def _note_worlds(self, name: str) -> None:
        """Settings of one method that differ between worlds."""
        found = [next(iter(runs.by_seed.values())) for world in self.worlds if (runs := self.runs[name, world]).by_seed]
        for record in found[1:]:
            own = {key for key in {*record.config, *found[0].config} if key.startswith("DATASET.")}
            for line in differences(found[0].config, record.config, BY_SEED_KEYS | own):
                whose = f"{name}: settings differ between {found[0].dataset} and {record.dataset}"
                self.notes[f"{whose}: {line}"] = None


def _run(runs: Runs, seed: int) -> RunRecord | None:
    """The run of a seed; where one run is enough for all seeds (zero-shot), that one."""
    one_for_all = next(iter(runs.by_seed.values()), None) if not runs.missing else None
    return runs.by_seed.get(seed, one_for_all)


def _value(record: RunRecord, name: str) -> float | None:
    """A metric; None for an empty group, or a target that this world's protocol does not have."""
    try:
        return metric(record, name)
    except KeyError:
        return None
