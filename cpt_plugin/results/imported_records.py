"""Imported logs put together to runs that tables, comparisons and the report can show: marked, and dashes for the rest.

They live in memory only: no record is ever written of them. Their data sets and their toolkit are called "imported", so
that they stand in tables of their own and in no mean with records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cpt_plugin.errors import RecordError
from cpt_plugin.protocols import BASE_TO_NEW, FEW_SHOT_ALL
from cpt_plugin.results.groups import FEW_SHOT_BANDS, GROUPS, GroupAccuracy
from cpt_plugin.results.imported import MARK, ImportedRun, from_plain
from cpt_plugin.results.record import Backbone, Evaluation, GitState, RunRecord, plain_json
from cpt_plugin.results.store import lines_of
from cpt_plugin.results.text import DASH, UNKNOWN_TAU, listed

NOTE = "imported from logs: accuracies as printed there, to 0.1; a dash for what a log does not tell"
Place = tuple[str, str, str, int | None, int | None, float | None, str, str]
"""Trainer, its configuration, data set, shots, seed, tau, backbone, folder of the prompts."""


def is_imported(toolkit: str) -> bool:
    """Whether runs of this toolkit are such logs."""
    return toolkit.endswith(f" ({MARK})")


def apart(record: RunRecord) -> tuple[object, ...]:
    """What separates tables of imported runs besides data set, tau and protocol: folders of logs hold any of it."""
    return (record.shots, record.backbone.name, record.toolkit) if is_imported(record.toolkit) else ()


def read_imported(path: Path) -> list[ImportedRun]:
    """The lines that ``results import`` wrote to a file.

    Raises:
        RecordError: it cannot be read, a line is damaged, or records are among them.
    """
    runs = []
    for line, origin in lines_of(path, "import the logs again"):
        plain = plain_json(line, origin)
        if not isinstance(plain, dict) or MARK not in plain:
            raise RecordError(f"{origin}: is not imported from a log: keep the two in files of their own")
        runs.append(from_plain(plain, origin))
    return runs


def as_records(runs: Iterable[ImportedRun]) -> tuple[list[RunRecord], list[str]]:
    """Base and new of one training as a run with H, a training on all classes as one of few-shot; and what is left.

    The lines are for what is in no run: evaluations on other data sets, base without new, logs that do not say what
    they are of.
    """
    by_place: dict[Place, dict[str, list[ImportedRun]]] = defaultdict(lambda: defaultdict(list))
    left: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if run.accuracy is None:
            left["without a result"].append(_name(run))
        elif not (run.trainer and run.dataset and run.prompts) or run.seed is None or run.shots is None:
            left["which run it is, neither the log nor its folders say"].append(_name(run))
        elif run.classes == "all" and not run.trained:
            left["evaluated on all classes, not trained there"].append(_name(run))
        else:
            shared = run.trainer, run.config, run.dataset, run.shots, run.seed, run.tau, run.backbone, run.prompts
            by_place[shared][run.classes].append(run)
    pairs = []
    for parts in by_place.values():
        first = next(iter(parts.values()))[0]
        names = [_name(one) for same in parts.values() for one in same]
        if any(len({one.accuracy for one in same}) > 1 for same in parts.values()):
            left["several results for the same prompts"] += names
        elif set(parts) in ({"base", "new"}, {"all"}):
            pairs.append({name: parts[name][0] for name in sorted(parts)})
        else:
            left[f"{first.classes or 'no classes'} without the other half"] += names
    variants = _variants(pairs)
    found = [_record(pair, variant) for pair, variant in zip(pairs, variants, strict=True)]
    return found, [f"in no table ({reason}): {listed(names)}" for reason, names in left.items()]


def _name(run: ImportedRun) -> str:
    return f"{run.experiment}/{run.run}"


def _variants(pairs: Sequence[dict[str, ImportedRun]]) -> list[str]:
    """What sets the runs of one trainer apart: its configuration, and its folder where that is not enough; or ""."""
    first = [next(iter(pair.values())) for pair in pairs]
    configs: dict[str, set[str]] = defaultdict(set)
    same = Counter(map(_slot, first))
    for run in first:
        configs[run.trainer].add(run.config)
    crowded = {(run.trainer, run.config) for run in first if same[_slot(run)] > 1}
    return [
        ", ".join([
            *([run.config] if len(configs[run.trainer]) > 1 and run.config else []),
            *([_rest_of_folder(run)] if (run.trainer, run.config) in crowded else []),
        ])
        for run in first
    ]  # fmt: skip


def _slot(run: ImportedRun) -> tuple[object, ...]:
    return run.trainer, run.config, run.dataset, run.classes, run.shots, run.seed, run.tau, run.backbone


def _rest_of_folder(run: ImportedRun) -> str:
    """The folder of the prompts without the seed and what names the data set, the trainer and its configuration."""
    told = (run.dataset, run.trainer, run.config, f"{run.config}_{run.shots}shots", f"shots_{run.shots}")
    return "/".join(part for part in run.prompts.split("/")[:-1] if part not in told)


def _record(pair: dict[str, ImportedRun], variant: str) -> RunRecord:
    one = next(iter(pair.values()))
    dataset = f"{one.dataset} ({MARK})"
    assert one.shots is not None
    assert one.seed is not None
    return RunRecord(
        method=one.trainer,
        prompt_learner=one.trainer,
        regularizers=(),
        variant=variant,
        dataset=dataset,
        tau=UNKNOWN_TAU if one.tau is None else one.tau,
        realized_tau=UNKNOWN_TAU,
        class_counts=(),
        counts_from="",
        bands=FEW_SHOT_BANDS,
        class_order=DASH,
        shots=one.shots,
        seed=one.seed,
        protocol=BASE_TO_NEW if "base" in pair else FEW_SHOT_ALL,
        toolkit=f"{one.toolkit or 'dassl'} ({MARK})",
        backbone=Backbone(one.backbone or DASH, ""),
        evaluations={name: Evaluation(dataset, name, run.accuracy or 0.0, (), "") for name, run in pair.items()},
        groups={name: GroupAccuracy(0, None) for name in GROUPS},
        worst_class=None,
        losses={},
        history=(),
        selection="",
        parts_without_gradient=(),
        prompts_hash="",
        timings={},
        config={},
        config_hash="",
        cluster_hash="",
        versions={"torch": DASH},
        git=GitState(None, None),
        device=DASH,
        precision=DASH,
        created=DASH,
    )
