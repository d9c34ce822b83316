"""Make a table: plan its runs, do those that are not there in processes or jobs, then render it from the records."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.identity import refusals
from cpt_plugin.cli.pool import Pool, Task
from cpt_plugin.cli.repository import ROOT
from cpt_plugin.cli.reproduce_arguments import ReproduceArguments
from cpt_plugin.cli.settings import identity_of
from cpt_plugin.cli.slurm import Jobs, Submit, submitter
from cpt_plugin.cli.words import report
from cpt_plugin.cli.writing import make_folder, write_beside
from cpt_plugin.config_identity import differences
from cpt_plugin.errors import ConfigError, CPTError, DataError
from cpt_plugin.methods import ZEROSHOT
from cpt_plugin.results import store
from cpt_plugin.results.grid import build_grid
from cpt_plugin.results.places import load_all
from cpt_plugin.results.provenance import utc_now
from cpt_plugin.results.record import RunRecord, load
from cpt_plugin.results.render import RENDERERS, SUFFIXES
from cpt_plugin.results.runs import BY_SEED_KEYS, plain_key
from cpt_plugin.results.spec import RowSpec, TableSpec, blocks, load_spec

DONE, BEGUN, TO_DO, BLOCKED = "done", "begun", "to do", "blocked"
TABLES, LOGS = "tables", "logs"


@dataclass(frozen=True)
class Planned:
    """A run of a table: the words of its command, its state, and why it cannot run when it is blocked."""

    experiment: Experiment | None
    words: tuple[str, ...]
    state: str
    reason: str = ""


def reproduce(args: ReproduceArguments) -> int:
    """Carry out a command; returns its exit status.

    0: every run is finished; 1: some failed or cannot run (listed, and the table shows n/expected); 2: the table or an
    option is wrong, or there is no Slurm; 130: interrupted.
    """
    try:
        spec = load_spec(args.table, ROOT)
        spec = replace(spec, seeds=args.seeds or spec.seeds, taus=args.taus or spec.taus)
        plan = plan_runs(spec, args)
    except CPTError as error:
        return report(error)
    _announce(plan, _records(args, []), args)
    if args.dry_run:
        return 0
    blocked = _blocked(plan)
    failed: list[str] = []
    try:
        if left := [run for run in plan if run.state in (TO_DO, BEGUN)]:
            _list("cannot run", blocked)
            for name in (TABLES, LOGS):
                make_folder(args.output / name)
            submit = None if args.slurm is None else submitter(args.slurm, args.output / LOGS / "slurm", ROOT)
            failed = _sweep(left, args, submit)
    except CPTError as error:
        return report(error)
    except KeyboardInterrupt:
        print("\ninterrupted; given again, the same command does the rest", file=sys.stderr)
        return 130
    damaged: list[str] = []
    status = 0
    try:
        _show(spec, args, _records(args, damaged))
    except CPTError as error:
        status = report(error)
    for kind, lines in (("failed", failed), ("cannot run", blocked), ("damaged record", damaged)):
        _list(kind, lines)
    return status or int(bool(failed or blocked or damaged))


def _list(kind: str, lines: Sequence[str]) -> None:
    for line in lines:
        print(f"{kind}: {line}", file=sys.stderr)


def _blocked(plan: Sequence[Planned]) -> list[str]:
    """A line a reason, with the runs it holds up."""
    by_reason: dict[str, list[Planned]] = {}
    for run in plan:
        if run.state == BLOCKED:
            by_reason.setdefault(run.reason, []).append(run)
    lines = []
    for reason, runs in by_reason.items():
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        lines.append(f"{' '.join(runs[0].words[:7])}{more}: {reason}")
    return lines


def plan_runs(spec: TableSpec, args: ReproduceArguments) -> list[Planned]:
    """Every run of a table once, in the order of its rows, by seed.

    Raises:
        ConfigError: an option that its row's method does not read, or a value out of range.
    """
    columns = [column for _, columns in blocks(spec, args.world) for column in columns]
    places = list(dict.fromkeys(_Place(name, c.tau, c.protocol) for c in columns for name in c.datasets))
    plan: list[Planned] = []
    for row in spec.rows:
        if row.method:
            for place in places:
                plan += _runs_at(row, place, spec.seeds, place == places[0], args)
    return list({run.words: run for run in plan}.values())


@dataclass(frozen=True)
class _Place:
    dataset: str
    tau: float
    protocol: str


def _runs_at(
    row: RowSpec, place: _Place, seeds: Sequence[int], checked: bool, args: ReproduceArguments
) -> list[Planned]:
    seeds = seeds[:1] if row.method == ZEROSHOT else seeds
    words = [_words(row, place, seed, args) for seed in seeds]
    try:
        parsed = parse_arguments(words[0])
    except DataError as error:
        reason = str(error).splitlines()[0]
        return [Planned(None, one, BLOCKED, reason) for one in words]
    experiments = [Experiment(parsed.method, seed, replace(parsed, seeds=(seed,))) for seed in seeds]
    if checked:
        _check(row, experiments[0])
    configs = _Configurations()
    return [_planned(one, line, configs) for one, line in zip(experiments, words, strict=True)]


def _check(row: RowSpec, experiment: Experiment) -> None:
    """Raise ConfigError for options that the method does not read, or values out of range."""
    if unread := [key for key in row.options or {} if not experiment.reads(key)]:
        raise ConfigError(f"row '{row.label}': {unread[0]} changes nothing, {row.method} does not read it")
    experiment.check()


class _Configurations(dict[str, dict[str, Any]]):
    """Settings of the runs of one command by method, assembled once: they are the same but for `BY_SEED_KEYS`."""

    def of(self, experiment: Experiment) -> dict[str, Any]:
        name = experiment.method.name
        if name not in self:
            self[name] = identity_of(experiment.method, experiment.config())
        return self[name]


def _planned(experiment: Experiment, words: tuple[str, ...], configs: _Configurations) -> Planned:
    if not experiment.record_file.is_file():
        if reason := _in_the_way(experiment, configs):
            return Planned(experiment, words, BLOCKED, reason)
        return Planned(experiment, words, BEGUN if experiment.is_begun else TO_DO)
    try:
        record = load(experiment.record_file)
    except CPTError as error:
        return Planned(experiment, words, BLOCKED, str(error))
    a = experiment.arguments
    wanted = (experiment.method.name, experiment.variant, a.dataset, a.tau, a.protocol, experiment.seed)
    there = (*plain_key(record), record.seed)
    named = zip(("method", "variant", "data set", "tau", "protocol", "seed"), there, wanted, strict=True)
    if other := [f"{name} {one} != {due}" for name, one, due in named if one != due]:
        whose = f"{experiment.record_file} is the record of another run (there != wanted): {', '.join(other)}"
        return Planned(experiment, words, BLOCKED, f"{whose}; delete that folder")
    if changed := differences(record.config, configs.of(experiment), BY_SEED_KEYS):
        settings = f"{experiment.folder} holds a run with other settings (there != now): {'; '.join(changed)}"
        return Planned(experiment, words, BLOCKED, f"{settings}; give another --output, or delete that folder")
    return Planned(experiment, words, DONE)


def _in_the_way(experiment: Experiment, configs: _Configurations) -> str:
    """What a run would find in its folder, or in those of the runs that it starts from, of other settings; "" if none.

    A damaged record there is left for the run itself to tell of.
    """

    def look_into(one: Experiment) -> None:
        one.check_folder(BY_SEED_KEYS, configs.of(one))

    claimed = (one for one in experiment.with_earlier if one.is_claimed)
    return str(refusals(partial(look_into, one) for one in claimed) or "")


def _words(row: RowSpec, place: _Place, seed: int, args: ReproduceArguments) -> tuple[str, ...]:
    """What `scripts/run.sh` would take for the same run."""
    words = [row.method, place.dataset, f"{place.tau:g}", "--protocol", place.protocol, "--seeds", str(seed)]
    words += ["--no-baseline"]
    words += ["--shots", str(args.shots), "--root", str(args.root), "--output", str(args.output)]
    words += ["--epochs", str(args.epochs)] if args.epochs else []
    words += ["--backbone", args.backbone] if args.backbone else []
    return (*words, *(["--variant", *row.pairs] if row.options else []))


def _announce(plan: Sequence[Planned], records: Sequence[RunRecord], args: ReproduceArguments) -> None:
    counts = {state: sum(run.state == state for run in plan) for state in (DONE, BEGUN, TO_DO, BLOCKED)}
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    _say(f"{args.table} ({args.world}): {len(plan)} runs: {shown}")
    if args.dry_run:
        for run in plan:
            _say(f"  {run.state:<7}  {' '.join(run.words)}{f'  ({run.reason})' if run.reason else ''}")
    left = [run for run in plan if run.state in (BEGUN, TO_DO)]
    known = [seconds_of(run, records) for run in left]
    if not left:
        return
    if None in known:
        _say("time: unknown, there is no earlier record to tell it from")
        return
    total = sum(filter(None, known))
    _say(f"time: about {_span(total / min(args.workers, len(left)))} with {args.workers} workers, from earlier records")


def seconds_of(run: Planned, records: Sequence[RunRecord]) -> float | None:
    """Mean time of the earlier runs most like this one: of its method, of its learner, of any; None without records."""
    if run.experiment is None:
        return None
    method, protocol = run.experiment.method, run.experiment.arguments.protocol
    likeness = (
        lambda r: r.method == method.name and r.protocol == protocol,
        lambda r: r.prompt_learner == method.prompt_learner and r.protocol == protocol,
        lambda r: r.prompt_learner == method.prompt_learner,
        lambda r: True,
    )
    for alike in likeness:
        if times := [record.timings["total"] for record in records if alike(record) and "total" in record.timings]:
            return fmean(times)
    return None


def _sweep(runs: Sequence[Planned], args: ReproduceArguments, submit: Submit | None) -> list[str]:
    """Do the runs; those of one folder, which share a training, by one worker or job. Returns what failed."""
    by_folder: dict[Path, list[Planned]] = {}
    for run in runs:
        if run.experiment is not None:
            by_folder.setdefault(run.experiment.folder, []).append(run)
    by_words = {run.words: run for run in runs}
    started, failed = time.monotonic(), []
    finished: set[tuple[str, ...]] = set()

    def tell(task: Task, answer: list[dict[str, Any]] | str, again: bool) -> None:
        outcomes = [{"error": answer, "final": False}] * len(task.runs) if isinstance(answer, str) else answer
        for words, outcome in zip(task.runs, outcomes, strict=True):
            run = by_words[tuple(words)]
            variant = run.experiment.variant if run.experiment else ""
            name = " ".join([*words[:7], *filter(None, [variant])])
            if "error" in outcome:
                _say(f"{'trying again' if again else 'failed'}: {name}: {outcome['error']}")
                if not again:
                    failed.append(f"{' '.join(words)}: {outcome['error']}")
                    store.add_failure(args.output, _failure(run, outcome["error"]))
            elif run.words not in finished:
                finished.add(run.words)
                left = (time.monotonic() - started) / len(finished) * (len(runs) - len(finished) - len(failed))
                spent = f"{outcome['seconds']:.0f} s, {outcome['status']}"
                _say(f"[{len(finished)}/{len(runs)}] {name}  ({spent}; about {_span(left)} left)")

    tasks = [Task([list(run.words) for run in group]) for group in by_folder.values()]
    if tasks and submit is not None:
        Jobs(tasks, args.workers, tell, args.output / LOGS / "slurm", submit).run()
    elif tasks:
        Pool(tasks, args.workers, tell, args.output / LOGS / "workers.log", folder=ROOT).run()
    return failed


def _failure(run: Planned, error: str) -> store.Failure:
    one = run.experiment
    assert one is not None
    a = one.arguments
    return store.Failure(one.method.name, one.variant, a.dataset, a.tau, one.seed, a.protocol, error, utc_now())


def _records(args: ReproduceArguments, damaged: list[str]) -> list[RunRecord]:
    return load_all([args.output], damaged) if args.output.is_dir() else []


def _show(spec: TableSpec, args: ReproduceArguments, records: Sequence[RunRecord]) -> None:
    """Write the table in every form, then print it; raises ConfigError for what was printed but not written."""
    filled = build_grid(spec, args.world, records, (), store.load_failures(args.output))
    printed = RENDERERS["terminal"](filled)
    folder = args.output / TABLES
    stem = f"{Path(args.table).stem}-{args.world}"
    unwritten = write_beside({folder / f"{stem}{suffix}": RENDERERS[form](filled) for suffix, form in SUFFIXES})
    _say("\n" + printed)
    if unwritten:
        raise unwritten
    _say(f"table: {folder / stem}{', '.join(suffix for suffix, _ in SUFFIXES)}")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(text: str) -> None:
    print(text, flush=True)
