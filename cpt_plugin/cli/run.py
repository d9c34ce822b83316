"""The main job: every run of a command one after the other, then one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.identity import refusals
from cpt_plugin.cli.words import report
from cpt_plugin.cli.writing import write_beside
from cpt_plugin.config_identity import variant_name
from cpt_plugin.errors import ConfigError, CPTError, DataError
from cpt_plugin.long_tail import NATURAL
from cpt_plugin.methods import ZEROSHOT, Method, parse_method
from cpt_plugin.protocols import BASE_TO_NEW

if TYPE_CHECKING:
    from cpt_plugin.cli.experiment import Outcome
    from cpt_plugin.results.record import RunRecord


class Run(Protocol):
    """One run that trains, evaluates by its protocol, and writes its record (or finds it written)."""

    @property
    def is_begun(self) -> bool: ...

    def check(self) -> None: ...

    def check_data(self, seen: dict[str, Any]) -> None: ...

    def check_folder(self) -> None: ...

    def reads(self, key: str) -> bool: ...

    def execute(self) -> Outcome: ...


class MakeRun(Protocol):
    """Makes a run of one method with one seed."""

    def __call__(self, method: Method, seed: int, arguments: RunArguments) -> Run: ...


def run(args: RunArguments, make_run: MakeRun | None = None, supply: Callable[[], object] = lambda: None) -> int:
    """Carry out a command; returns its exit status. What is missing comes from `supply`, once the settings make sense.

    0: every run finished; 1: some failed (the table shows n/expected); 2: the configuration, the data or the output
    folder are at fault, which ends the command at the first run that meets it, with no table;
    130: interrupted. `make_run` replaces the real experiment.
    """
    plan, make_run = plan_runs(args), make_run or _experiment()
    try:
        check_settings(plan, args, make_run)
        check_folders(plan, args, make_run)
        supply()
        check_data(plan, args, make_run)
    except CPTError as error:
        return report(error)
    if args.tail == NATURAL:
        _say(f"{NATURAL}: every training image is used, with the tail that the data have ({args.protocol})")
    records, status = _execute(plan, args, make_run)
    if records and status != 2:
        methods = [] if args.variant else list(dict.fromkeys(method.name for method, _ in plan))
        try:
            _show_table(args, methods, records)
        except CPTError as error:
            status = max(report(error), status)
    if status not in (0, 2):
        mended = "" if status == 130 else "once what is named above is mended, "
        done = f"{len(records)} of {len(plan)} runs are finished"
        print(f"{done}; {mended}the same command does the rest", file=sys.stderr)
    return status


def plan_runs(args: RunArguments) -> list[tuple[Method, int]]:
    """Methods and seeds in the order in which they run: zero-shot, then by seed the baseline and the method.

    A method with DPC starts from its first stage, and one that changes the evaluation alone evaluates the prompts of
    the method without it; these run before it whether baselines are wanted or not.
    Zero-shot trains nothing, so it runs once; when the class order is drawn by seed, its groups change with
    the seed and it runs for every one.
    """
    wanted = [args.method.baseline] if args.baseline else []
    wanted += [] if args.method.trained is None else [args.method.trained]
    stages = ((method.first_stage, method) for method in [*wanted, args.method])
    trained = list(dict.fromkeys(method for pair in stages for method in pair if method is not None))
    plan = [(method, seed) for seed in args.seeds for method in trained if method.name != ZEROSHOT]
    if args.baseline or args.method.name == ZEROSHOT:
        by_seed = args.pairs.get("DATASET.CLASS_ORDER", "label") != "label"
        seeds = args.seeds if by_seed else args.seeds[:1]
        plan = [(parse_method(ZEROSHOT), seed) for seed in seeds] + plan
    return plan


def check_settings(plan: Sequence[tuple[Method, int]], args: RunArguments, make_run: MakeRun) -> None:
    """Look at the settings of every method before the first run begins.

    Raises ConfigError for a value out of range, or a key that none of the methods reads.
    """
    runs = [make_run(method, seed, args) for method, seed in dict(reversed(plan)).items()]
    for key in args.opts[::2]:
        if not any(run.reads(key) for run in runs):
            raise ConfigError(f"{key} changes nothing: {args.method.name} does not read it; leave it out")
    for run in runs:
        run.check()


def check_data(plan: Sequence[tuple[Method, int]], args: RunArguments, make_run: MakeRun) -> None:
    """Look at the images and class names of all evaluations of every method before the first run begins.

    Raises CPTError for a part without images, or names that a method cannot put into its texts.
    """
    seen: dict[str, Any] = {}
    for method, seed in dict(reversed(plan)).items():
        make_run(method, seed, args).check_data(seen)


def check_folders(plan: Sequence[tuple[Method, int]], args: RunArguments, make_run: MakeRun) -> None:
    """Look into the folders of all runs before the first one begins.

    Raises ConfigError, naming them all, for those that hold runs of other settings.
    """
    if refused := refusals(make_run(method, seed, args).check_folder for method, seed in plan):
        raise refused


def _experiment() -> MakeRun:
    from cpt_plugin.cli.experiment import Experiment

    return Experiment


def _execute(
    plan: Sequence[tuple[Method, int]], args: RunArguments, make_run: MakeRun
) -> tuple[list[RunRecord], int]:
    """Records of the finished runs and the exit status so far; what no other run would do without ends the loop."""
    records: list[RunRecord] = []
    status = 0
    for position, (method, seed) in enumerate(plan, start=1):
        place = f"[{position}/{len(plan)}]"
        try:
            one = make_run(method, seed, args)
            going_on = " (going on with the unfinished run)" if one.is_begun else ""
            _say(f"{place} {method.name} {args.dataset} {args.tail} seed {seed} ...{going_on}")
            outcome = one.execute()
        except (ConfigError, DataError) as error:
            return records, report(error)
        except CPTError as error:
            report(error)
            status = 1
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return records, 130
        else:
            records.append(outcome.record)
            got = short_metrics(outcome.record)
            note = "" if outcome.status == "new" else f", {outcome.status}"
            figures = "  ".join(f"{name} {value:.1f}" for name, value in got.items())
            _say(f"{place} {method.name} {figures}  ({outcome.seconds:.0f} s{note})")
    return records, status


def short_metrics(record: RunRecord) -> dict[str, float]:
    """The metrics of a record but its single targets."""
    shown = ("base", "new", "H", "all", "source", "mean")
    return {name: value for name, value in record.metrics.items() if name in shown}


def _show_table(args: RunArguments, methods: Sequence[str], records: Sequence[RunRecord]) -> None:
    from cpt_plugin.results import table
    from cpt_plugin.results.runs import REHEARSAL

    printed = table.render_terminal(records, methods, args.seeds)
    suffix = "" if args.protocol == BASE_TO_NEW else f"-{args.protocol}"
    suffix += f"-{variant_name(args.pairs)}" if args.variant else ""
    stem = args.folder / "tables" / f"{args.method.name}-{args.tail_name}{suffix}"
    forms = ((".md", table.render_markdown), (".csv", table.render_csv))
    unwritten = write_beside(
        {stem.parent / (stem.name + suffix): render(records, methods, args.seeds) for suffix, render in forms}
    )
    _say("\n" + printed)
    if args.only_tries_out:
        _say(f"{REHEARSAL}\n")
    if unwritten:
        raise unwritten
    _say(f"table: {stem}.md, {stem.name}.csv; records: {args.folder}")


def _say(text: str) -> None:
    print(text, flush=True)
