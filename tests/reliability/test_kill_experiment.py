"""R1 on the path of the command: kill a run whenever, give the command again, get the same record and prompts.

Covers: `Experiment.execute` with the micro model on a small drawing of an embedded world, killed at random times before
its first state, in its training, and between its last model and its record, and killed at every kind of write and
removal that it makes.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import pytest
import torch

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.results import record as records
from datasets.shapes_world import store
from tests.helpers.prompt_runs import fingerprint
from tests.reliability.kill_harness import (
    PHASES,
    Run,
    Tally,
    final_models,
    fork,
    kill_in_phase,
    newest_step,
    seconds_of_phases,
    to_the_end,
)

METHODS = ("coop_cpt", "maple_cpt", "coop_dpc")
PATIENCE = 20
"""Kills of a phase that may miss it."""
VOLATILE = ("timings", "created", "git")
STATE_A_STEP = ("--epochs", "2", "TRAIN.CHECKPOINT_SECONDS", "0")
NO_STATE_WITHIN_AN_EPOCH = ("--epochs", "1", "TRAIN.CHECKPOINT_SECONDS", "-1")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command on a small world that trains 12 images in batches of 2; every run of it has its own folder."""

    data: Path
    method: str
    words: tuple[str, ...] = STATE_A_STEP

    def experiment(self, output: Path) -> Experiment:
        arguments = parse_arguments([
            self.method, "shapes:colors:shift", "0.25", "--seeds", "1", "--shots", "4", *self.words,
            "--root", str(self.data), "--output", str(output),
            "DATALOADER.TRAIN_X.BATCH_SIZE", "2", "CPT.CLUSTER_SIZE", "2", "USE_CUDA", "False",
        ])  # fmt: skip
        return Experiment(arguments.method, 1, arguments)

    def folder(self, output: Path) -> Path:
        """The folder of the run that writes to ``output``."""
        folder = self.experiment(output).folder
        folder.parent.mkdir(parents=True)
        return folder

    def run(self, folder: Path) -> None:
        self.experiment(folder.parents[3]).execute()

    def result(self, folder: Path) -> tuple[dict[str, Any], str]:
        """What no interruption may change: the record but for times, and every bit of the final checkpoint."""
        record = dataclasses.asdict(records.load(folder / "record.json"))
        return {key: value for key, value in record.items() if key not in VOLATILE}, fingerprint(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a small world; libraries use one thread, because threads do not survive a fork."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "IMAGES_PER_CLASS", {"train": 4, "val": 1, "test": 4})
        folder = tmp_path_factory.mktemp("kill_experiment")
        for method in METHODS:
            Command(folder, method).run(Command(folder, method).folder(folder / f"warm-{method}"))
        yield folder


# -- at random times -------------------------------------------------------------------------------------------------


def check(data: Path, output: Path, method: str, kills: int) -> None:
    """Kill once a trial, at a time that is uniform over a phase of a run, until so many kills landed in each phase.

    A kill that comes too late halves the time for the next ones, so the speed of the machine may change.
    """
    command = Command(data, method)
    reference = command.folder(output / "reference")
    seconds = seconds_of_phases(command.run, reference)
    wanted = command.result(reference)
    assert wanted[0]["losses"]
    rng, tally = random.Random(29), Tally()
    for phase in PHASES:
        for trial in range(kills + PATIENCE):
            if (landed := getattr(tally, phase)) >= kills:
                break
            folder = command.folder(output / f"{phase}{trial}")
            kill_in_phase(command.run, folder, phase, seconds[phase] * rng.random(), tally)
            if getattr(tally, phase) == landed:
                seconds[phase] /= 2
            to_the_end(command.run, folder)
            tally.compare(command.result(folder), wanted)
    print(f"R1 command {method}: {tally}")
    assert tally.different == 0, tally
    assert min(tally.before, tally.training, tally.after) >= kills, tally


def test_run_killed_at_any_time_ends_with_the_same_record(data: Path, tmp_path: Path) -> None:
    check(data, tmp_path, "coop_cpt", kills=2)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", METHODS)
def test_run_killed_at_any_time_ends_with_the_same_record_long(data: Path, tmp_path: Path, method: str) -> None:
    """Of two stages the first counts as before the run's first state."""
    check(data, tmp_path, method, kills=33)


# -- at chosen points ------------------------------------------------------------------------------------------------


def dying(run: Run, function: str, target: str, after: bool) -> Run:
    """The run, killed just before (or after) it calls a function of `os` with a last path that fits ``target``."""

    def dying_run(folder: Path) -> None:
        original: Callable[..., Any] = getattr(os, function)

        def call(*paths: Any, **options: Any) -> Any:
            hit = re.fullmatch(target, os.fspath(paths[-1]))
            if hit and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*paths, **options)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, function, call)
        run(folder)

    return dying_run


@pytest.fixture(scope="module")
def wanted(data: Path) -> dict[tuple[str, ...], Any]:
    """Results of undisturbed runs."""
    results = {}
    for number, words in enumerate((STATE_A_STEP, NO_STATE_WITHIN_AN_EPOCH)):
        command = Command(data, "coop_cpt", words)
        folder = command.folder(data / f"undisturbed{number}")
        to_the_end(command.run, folder)
        results[words] = command.result(folder)
    return results


@pytest.mark.parametrize(
    ("words", "function", "target", "after"),
    [
        (STATE_A_STEP, "replace", r".*/run\.json", False),
        (STATE_A_STEP, "replace", r".*/state-0+1\.pth\.tar", False),
        (STATE_A_STEP, "replace", r".*/state-0+7\.pth\.tar", False),
        (STATE_A_STEP, "replace", r".*/model\.pth\.tar-2", True),
        (STATE_A_STEP, "unlink", r"state-.*", True),
        (STATE_A_STEP, "replace", r".*/record\.json", False),
        (NO_STATE_WITHIN_AN_EPOCH, "replace", r".*/model\.pth\.tar-1", False),
        (NO_STATE_WITHIN_AN_EPOCH, "replace", r".*/model\.pth\.tar-1", True),
    ],
)
def test_run_killed_at_a_write_ends_with_the_same_record(
    data: Path, tmp_path: Path, wanted: dict[tuple[str, ...], Any], words: Any, function: str, target: str, after: bool
) -> None:
    command = Command(data, "coop_cpt", words)
    folder = command.folder(tmp_path)
    _, status = os.waitpid(fork(dying(command.run, function, target, after), folder), 0)
    assert os.WIFSIGNALED(status), Path(f"{folder}.log").read_text()
    assert not (folder / "record.json").exists()
    assert bool(list(folder.rglob("*.tmp-*"))) == (function == "replace" and not after)
    to_the_end(command.run, folder)
    assert command.result(folder) == wanted[words]


@pytest.mark.parametrize("name", ["resume/state-000000001.pth.tar", "prompt_learner/model.pth.tar-2"])
def test_half_written_file_is_nothing_to_go_on_with(
    data: Path, tmp_path: Path, wanted: dict[tuple[str, ...], Any], name: str
) -> None:
    command = Command(data, "coop_cpt")
    folder = command.folder(tmp_path)
    half = folder / f"{name}.tmp-4321"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half a sta")
    assert not newest_step(folder)
    assert not final_models(folder)
    to_the_end(command.run, folder)
    assert command.result(folder) == wanted[STATE_A_STEP]
