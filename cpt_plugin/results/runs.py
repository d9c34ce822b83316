"""The runs behind one cell of a table: what is there, what is missing, and what cannot be used."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cpt_plugin.backbones import MICRO
from cpt_plugin.config_identity import NEUTRAL_KEYS, differences
from cpt_plugin.errors import RecordError
from cpt_plugin.long_tail import NATURAL, is_natural, shots_in_words
from cpt_plugin.methods import ZEROSHOT, is_embedded
from cpt_plugin.protocols import plain_dataset
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.store import Failure

Key = tuple[str, str, str, float | str, str]
"""Method, variant, data set, tau (or `natural`), protocol."""

BY_SEED_KEYS = NEUTRAL_KEYS | {"SEED", "TRAINER.DPC.STAGE_ONE_HASH"}
"""Keys that differ from seed to seed of one method."""

EVERYWHERE: dict[str, Callable[[RunRecord], object]] = {
    "class_order": lambda record: record.class_order,
    "shots": lambda record: shots_in_words(record.shots),
    "toolkit": lambda record: record.toolkit,
    "backbone": lambda record: f"{record.backbone.name} {record.backbone.digest[:12]}",
}
"""What all records of a table must share."""


WHY_NOTHING = f"the {MICRO} model knows neither real images nor their names"
REHEARSAL = f"ACCURACIES MEAN NOTHING here: {WHY_NOTHING}"


@dataclass(frozen=True)
class Runs:
    """The usable runs of one method on one data set at one tau by seed; what is wrong with the others."""

    by_seed: dict[int, RunRecord]
    missing: tuple[int, ...]
    problems: tuple[str, ...]

    @property
    def expected(self) -> int:
        """Number of seeds there should be."""
        return len(self.by_seed) + len(self.missing)


def baseline_of(record: RunRecord) -> str:
    """Name of the same method without its regularizers."""
    return record.method.removesuffix("".join(f"_{name}" for name in record.regularizers))


def key_of(run: RunRecord | Failure) -> Key:
    """What the seeds of one run have in common."""
    return run.method, run.variant, run.dataset, tail_key(run), run.protocol


def tail_key(run: RunRecord | Failure) -> float | str:
    """tau, or `natural` for a run on all images: it is not one of tau 1, which draws as many images of each class."""
    return NATURAL if isinstance(run, RunRecord) and is_natural(run.tau, run.shots) else run.tau


def by_schedule(records: Iterable[RunRecord]) -> list[str]:
    """What to say of records whose groups rest on the schedule, not on the data: one note, or none."""
    places = sorted({f"{record.dataset}, tau {record.tau:g}" for record in records if record.by_schedule})
    return [f"groups BY SCHEDULE, not read from the data (older records): {'; '.join(places)}"] if places else []


def run_of(run: RunRecord | Failure) -> tuple[Key, int]:
    """Which run a record or a failure is of: its key and seed."""
    return key_of(run), run.seed


def plain_key(record: RunRecord) -> Key:
    """The key without what a record adds to the name of a data set that is not divided as published."""
    return key_of(replace(record, dataset=plain_dataset(record.dataset)))


def name_of(record: RunRecord) -> str:
    """Method and variant."""
    return f"{record.method} ({record.variant})" if record.variant else record.method


def means_nothing(backbone: str, dataset: str) -> bool:
    """Whether a run only tried the program out: with this model on this data set its accuracies say nothing."""
    return backbone == MICRO and not is_embedded(plain_dataset(dataset))


def split_rehearsals(records: Iterable[RunRecord]) -> tuple[list[RunRecord], str]:
    """The records without those whose accuracies mean nothing, and what to say of these; "" where there are none."""
    kept: list[RunRecord] = []
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if means_nothing(record.backbone.name, record.dataset):
            left_out[record.dataset][name_of(record)] += 1
        else:
            kept.append(record)
    places = "; ".join(
        f"{dataset} ({', '.join(f'{name}: {count}' for name, count in sorted(names.items()))})"
        for dataset, names in sorted(left_out.items())
    )
    return kept, f"left out, accuracies mean nothing, {WHY_NOTHING}; runs by data set: {places}" if places else ""


def collect(name: str, records: Iterable[RunRecord], seeds: Sequence[int]) -> Runs:
    """Sort the runs of one cell by seed, in the order of `seeds`, those expected.

    A seed with two records, or one that is not expected, is a problem and counts as not there; so are all seeds when
    they ran under different configurations. Zero-shot trains nothing, so one of its runs is enough while classes are
    ranked by label.
    """
    found: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        found[record.seed].append(record)
    problems = [
        f"{name} has {_counted(len(twice))} records for seed {seed}: keep one"
        for seed, twice in sorted(found.items())
        if len(twice) > 1
    ]
    problems += [
        f"{name} has a record for seed {seed}, not among {list(seeds)}" for seed in sorted({*found} - {*seeds})
    ]
    usable = {seed: found[seed][0] for seed in seeds if len(found.get(seed, ())) == 1}
    if mixed := _mixed(name, list(usable.values())):
        problems, usable = [*problems, mixed], {}
    one_is_enough = name == ZEROSHOT and all(record.class_order == "label" for record in usable.values())
    missing = () if one_is_enough and usable else tuple(seed for seed in seeds if seed not in usable)
    return Runs(usable, missing, tuple(problems))


def check_shared(records: Sequence[RunRecord], shared: dict[str, Callable[[RunRecord], object]]) -> None:
    """Raise RecordError, naming what differs and whose it is, unless all records agree."""
    complaints = []
    for key, value_of in shared.items():
        owners: dict[object, str] = {}
        for record in records:
            owners.setdefault(value_of(record), f"{record.method} seed {record.seed}")
        if len(owners) > 1:
            complaints.append(f"{key}: " + ", ".join(f"{value} ({who})" for value, who in owners.items()))
    if complaints:
        raise RecordError(f"records of one table differ in {'; '.join(complaints)}: make one table for each")


def other_images(records: Iterable[RunRecord]) -> dict[tuple[str, float | str, str, int], str]:
    """(data set, tau, protocol, seed) under which methods saw different images, and what to say about it."""
    seen: dict[tuple[str, float | str, str, int], RunRecord] = {}
    found: dict[tuple[str, float | str, str, int], str] = {}
    for record in records:
        key = (*key_of(record)[2:], record.seed)
        other = seen.setdefault(key, record)
        for name in sorted(other.evaluations.keys() & record.evaluations.keys()):
            one, two = other.evaluations[name], record.evaluations[name]
            if one.split_hash != two.split_hash:
                renamed = [c.name for c in one.per_class] != [c.name for c in two.per_class]
                what = "other class names, or different images," if renamed else "different images"
                found.setdefault(
                    key,
                    f"split hash of {name}: {name_of(other)} and {name_of(record)} saw {what} under "
                    f"seed {record.seed}: run one of them again on the same split",
                )
    return found


def _mixed(name: str, records: Sequence[RunRecord]) -> str:
    for record in records[1:]:
        if changed := differences(records[0].config, record.config, ignore=BY_SEED_KEYS):
            return (
                f"{name}: seeds {records[0].seed} and {record.seed} ran under different configurations: "
                f"{'; '.join(changed)}: run one of them again"
            )
    return ""


def _counted(number: int) -> str:
    return {2: "two", 3: "three"}.get(number, str(number))
