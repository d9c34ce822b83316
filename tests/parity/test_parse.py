"""CoOp's released ``parse_test_res.py`` reads our logs of two seeds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin import toolkit
from tests.helpers.prompt_runs import prepare, prompt_cfg, train
from tests.parity.conftest import released, subprocess_environment

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float], list[float]]:
    """Folder with ``train/seed<s>`` and ``test/seed<s>``, and the accuracies of training runs and evaluations.

    The second seed trains on all classes, and all are evaluated later, so that no two figures are alike.
    """
    released("CPT_RELEASED_COOP", "CPT_RELEASED_DASSL")
    folder = tmp_path_factory.mktemp("parse")
    prepare(folder)
    trained, tested = [], []
    for seed, classes in zip(SEEDS, ("base", "all"), strict=True):
        output = folder / "train" / f"seed{seed}"
        log = toolkit.setup_logger(str(output))
        trainer = train(prompt_cfg(folder, output, "CoOpCPT", "SEED", seed, "DATASET.SUBSAMPLE_CLASSES", classes,
                                   "TRAIN.PRINT_FREQ", 1, "TEST.PER_CLASS_RESULT", True))  # fmt: skip
        trained.append(trainer.results["accuracy"])
        log.close()
        log = toolkit.setup_logger(str(folder / "test" / f"seed{seed}"))
        tester = toolkit.build_trainer(
            prompt_cfg(folder, folder / "test", "CoOpCPT", "SEED", seed, "DATASET.SUBSAMPLE_CLASSES", "all")
        )
        tester.load_model(str(output), epoch=3)
        tested.append(tester.test())
        log.close()
    return folder, trained, tested


def parse(folder: Path, *words: str) -> tuple[float, float]:
    """Mean and spread that the released script prints."""
    coop, dassl = released("CPT_RELEASED_COOP", "CPT_RELEASED_DASSL")
    done = subprocess.run(
        [sys.executable, f"{coop}/parse_test_res.py", str(folder), *words],
        env=subprocess_environment(dassl), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (summary,) = re.findall(r"^\* \w+: ([\d.]+)% \+- ([\d.]+)%$", done.stdout, re.MULTILINE)
    print(done.stdout)
    return float(summary[0]), float(summary[1])


def test_training_logs(runs: tuple[Path, list[float], list[float]]) -> None:
    folder, trained, tested = runs
    mean, spread = parse(folder / "train")
    rounded = [round(value, 1) for value in trained]
    assert len(set(trained)) == 2
    assert sum(trained) != sum(tested)
    assert mean == pytest.approx(sum(rounded) / 2, abs=0.006)
    assert spread == pytest.approx(abs(rounded[0] - rounded[1]) / 2, abs=0.006)


def test_logs_of_evaluations(runs: tuple[Path, list[float], list[float]]) -> None:
    folder, _, tested = runs
    mean, _ = parse(folder / "test", "--test-log")
    assert mean == pytest.approx(sum(round(value, 1) for value in tested) / 2, abs=0.006)


@pytest.mark.parametrize("keyword", ["macro_f1", "average", "error"])
def test_other_figures(keyword: str, runs: tuple[Path, list[float], list[float]]) -> None:
    mean, _ = parse(runs[0] / "train", "--keyword", keyword)
    assert 0 <= mean <= 100
