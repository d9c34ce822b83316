"""Accuracies out of the field's ``log.txt`` folders: rounded, without provenance, never mixed with records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from cpt_plugin._escapes import one_line
from cpt_plugin._schema import SchemaError, decode
from cpt_plugin.errors import RecordError
from cpt_plugin.results.stats import summarize

MARK = "imported"
_ACCURACY = re.compile(r"\* accuracy: ([0-9]+(?:\.[0-9]+)?)%")
_BASE_TO_NEW = re.compile(
    r"(?:^|/)(?P<part>train_base|test_base|test_new)/(?P<dataset>[^/]+)/shots_(?P<shots>\d+)"
    r"/(?P<trainer>[^/]+)/(?P<config>[^/]+)/seed_?(?P<seed>\d+)$"
)
"""Where the scripts of CoOp, MaPLe, PromptSRC and DPC put base-to-new runs."""
_SEED = re.compile(r"seed_?(\d+)$")
_NOTHING = ("", "None", "''", '""')


@dataclass(frozen=True)
class ImportedRun:
    """One log: the folder of its experiment, its own folder's name (mostly a seed), accuracy to one decimal.

    accuracy is None for a run that did not get so far as to print one. The rest is what the head of the log says, else
    the folders of a base-to-new script; "" or None where neither tells. classes: base, new or all; trained: whether
    the log is of a training; prompts: the folder whose prompts were tested, as the command named it, by which the
    evaluations of one training belong together.
    """

    experiment: str
    run: str
    accuracy: float | None
    trainer: str = ""
    config: str = ""
    dataset: str = ""
    classes: str = ""
    shots: int | None = None
    seed: int | None = None
    tau: float | None = None
    backbone: str = ""
    toolkit: str = ""
    trained: bool = False
    prompts: str = ""


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
            lines = [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            place = run.as_posix().removeprefix(f"{folder.resolve().as_posix()}/")
            if _BASE_TO_NEW.search(place) is None:  # the folder that was given may lie below the part that tells
                place = run.as_posix()
            found.append(ImportedRun(experiment, run.name, _accuracy(lines), **_identity(lines, place)))
    return found, len(own)


def to_lines(runs: Iterable[ImportedRun]) -> str:
    """JSON lines, each marked as imported; what is not told is not written."""
    return "".join(json.dumps({MARK: True, **_told(run)}, sort_keys=True) + "\n" for run in runs)


def _told(run: ImportedRun) -> dict[str, Any]:
    defaults = {part.name: part.default for part in fields(run)}
    return {name: value for name, value in asdict(run).items() if value != defaults[name]}


def from_plain(plain: dict[str, Any], origin: str) -> ImportedRun:
    """One of these lines; what it lacks is told by its folders, as far as they are known to tell.

    Raises:
        RecordError: it is damaged; ``origin`` names it.
    """
    given = {key: value for key, value in plain.items() if key != MARK}
    try:
        run: ImportedRun = decode(ImportedRun, given)
        run = decode(ImportedRun, _from_folders(f"{run.experiment}/{run.run}") | given)
        if not 0 <= (run.accuracy or 0) <= 100:
            raise SchemaError("accuracy", f"{run.accuracy} % cannot be")
    except SchemaError as error:
        raise RecordError(f"{origin}: {error}: import the logs again") from error
    return run


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
        lines.append(one_line(line))
    return "\n".join(lines)


def _accuracy(log: Sequence[str]) -> float | None:
    lines = [line.strip() for line in log]
    trained = _is_training(lines)
    marks = ("Finish training", "Finished training") if trained else ("=> result",)
    start = next((index for index, line in enumerate(lines) if line in marks), len(lines))
    values = [match[1] for line in lines[start:] if (match := _ACCURACY.match(line))]
    return round(float(values[-1]), 1) if values else None


def _is_training(lines: Sequence[str]) -> bool:
    return any(line.startswith("epoch [") for line in lines)


def _identity(lines: Sequence[str], path: str) -> dict[str, Any]:
    """What run this is: the arguments and the configuration at the head of its log, else its folders."""
    arguments, config, folders = _arguments(lines), _config(lines), _from_folders(path)
    if not (arguments or config or folders):
        return {}
    of_eval = arguments.get("eval_only") == "True"
    prompts = arguments.get("model_dir", "") if of_eval else arguments.get("output_dir") or config.get("OUTPUT_DIR", "")
    toolkit = next((line.split()[1].rstrip(".;,") for line in lines if re.match(r"Toolkit: \w", line)), "dassl")
    seed = config.get("SEED", arguments.get("seed", ""))
    said: dict[str, Any] = {
        "trainer": config.get("TRAINER.NAME") or arguments.get("trainer", ""),
        "config": PurePosixPath(arguments.get("config_file", "")).stem,
        "dataset": PurePosixPath(arguments.get("dataset_config_file", "")).stem,
        "classes": config.get("DATASET.SUBSAMPLE_CLASSES", ""),
        "shots": _whole(config.get("DATASET.NUM_SHOTS", "")),
        "seed": _whole(seed),  # -1: not seeded, which the folder may have a number for
        "tau": _fraction(config.get("DATASET.IMBALANCE_TAU", "")),
        "backbone": config.get("MODEL.BACKBONE.NAME", ""),
        "prompts": PurePosixPath(prompts).as_posix() if prompts not in _NOTHING else "",
    }
    said = {key: value for key, value in said.items() if value is not None and value not in _NOTHING}
    number = {"seed": int(match[1])} if (match := _SEED.search(path)) else {}
    return number | folders | said | {"toolkit": toolkit, "trained": _is_training(lines) and not of_eval}


def _from_folders(path: str) -> dict[str, Any]:
    """What the folders of a base-to-new script say; nothing for others."""
    match = _BASE_TO_NEW.search(path)
    if match is None:
        return {}
    told: dict[str, Any] = match.groupdict()
    part = told.pop("part")
    prompts = f"{path[: match.start('part')]}*{path[match.end('part') :]}"
    counts = {key: int(told[key]) for key in ("shots", "seed")}
    return told | counts | {"classes": part.split("_")[1], "trained": part == "train_base", "prompts": prompts}


def _arguments(lines: Sequence[str]) -> dict[str, str]:
    """``key: value`` below Dassl's heading of the arguments, up to that of the configuration."""
    heads = [index for index, line in enumerate(lines) if line == "** Arguments **"]
    found: dict[str, str] = {}
    for line in lines[heads[0] + 1 :] if heads else ():
        if line == "** Config **":
            break
        key, colon, value = line.partition(": ")
        if colon and re.fullmatch(r"\w+", key):
            found[key] = value
    return found


def _config(lines: Sequence[str]) -> dict[str, str]:
    """Dotted keys and values of the configuration that Dassl prints: two blanks more for each level."""
    heads = [index for index, line in enumerate(lines) if line == "** Config **"]
    found: dict[str, str] = {}
    above: list[str] = []
    for line in lines[heads[0] + 1 :] if heads else ():
        if not line.strip("* "):
            continue
        match = re.match(r"( *)([A-Za-z0-9_]+):(?: (.*))?$", line)
        if match is None or len(match[1]) > 2 * len(above):
            break
        above = [*above[: len(match[1]) // 2], match[2]]
        if match[3] is not None:
            found[".".join(above)] = match[3]
    return found


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,10}", text) else None


def _fraction(text: str) -> float | None:
    try:
        return value if 0 < (value := float(text)) <= 1 else None
    except ValueError:
        return None
