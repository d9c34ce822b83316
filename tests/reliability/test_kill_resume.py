"""R1: kill -9 at any moment in mid-training, resume, and get the same bits, trainer by trainer.

Covers: trainers of every kind on a tiny CLIP (all in the long form); a negative control without restored randomness,
which must come out different; a count of the kills that landed in mid-training. Kills at any other time, on the
path of the command: test_kill_experiment.py.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from cpt_plugin.toolkit.embedded import loader, resume, trainer
from cpt_plugin.toolkit.embedded.resume import ResumeFolder
from tests.helpers.prompt_runs import fingerprint, prepare, prompt_cfg, train
from tests.reliability.kill_harness import Run, patched, trials_in_training

SHORT = ("CoOp", "CoOpCPTB", "MaPLeCPT", "CoCoOp", "PromptSRC", "MaPLeDPC")
TRAINERS = (*SHORT, "CoOpCPT", "MaPLe", "IVLP", "ShallowVL", "CoOpDPC", "PromptSRCDPC")


def resumable(folder: Path, name: str) -> Run:
    """A run that goes on from its own states."""

    def run(output: Path) -> None:
        torch.set_num_threads(1)
        begun = ResumeFolder(output).newest_first()
        train(prompt_cfg(folder, output, name, "RESUME", output if begun else ""))

    return run


def naive(folder: Path, name: str) -> Run:
    """The usual scheme: one global seed at the start, and nothing restored after an interruption."""
    inner = resumable(folder, name)

    def run(output: Path) -> None:
        with contextlib.ExitStack() as stack:
            nothing = contextlib.nullcontext
            stack.enter_context(patched(loader, isolated_rng=lambda seed: nothing(), kept_rng=nothing))
            stack.enter_context(patched(resume, set_rng_state=lambda state: None))
            stack.enter_context(patched(trainer.SimpleTrainer, reseed=lambda self, *a: None))
            inner(output)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    prepare(folder)
    torch.set_num_threads(1)
    return folder


def check(folder: Path, name: str, kills: int) -> None:
    train(prompt_cfg(folder, folder / f"warm-{name}-{kills}", name))
    runs = folder / f"runs-{name}-{kills}"
    runs.mkdir()
    tally = trials_in_training(resumable(folder, name), runs, fingerprint, kills, kills_a_run=4, seed=17)
    print(f"R1 {name}: {tally}")
    assert tally.different == 0, tally
    assert tally.identical >= kills / 4, tally
    assert tally.training >= kills, tally


@pytest.mark.parametrize("name", SHORT)
def test_killed_run_ends_with_the_same_bits(folder: Path, name: str) -> None:
    check(folder, name, kills=5)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TRAINERS)
def test_killed_run_ends_with_the_same_bits_long(folder: Path, name: str) -> None:
    check(folder, name, kills=50)


def test_harness_sees_randomness_that_is_not_restored(folder: Path) -> None:
    runs = folder / "runs-naive"
    runs.mkdir()
    tally = trials_in_training(naive(folder, "CoOp"), runs, fingerprint, kills=6, kills_a_run=2, seed=3)
    print(f"R1 negative control: {tally}")
    assert tally.identical == 0, tally
    assert tally.different >= 3, tally
