"""train.py: the command line of the CoOp family."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train as command
from cpt_plugin.errors import CheckpointError, ConfigError
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import RESOLUTION, fingerprint, weights
from tests.helpers.tiny_world import BASE, write_world
from tests.trainers.problems import raises_at, saved
from trainers._base import PromptTrainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("train_py"))


def words(root, output, trainer="CoOp", *options, seed=1, classes="base"):
    """A command line of two epochs; options that start with -- go before the keys and values."""
    return [
        "--root", str(root), "--output-dir", str(output), "--trainer", trainer, "--backbone", str(weights(root)),
        "--dataset-config-file", str(ROOT / "configs" / "datasets" / "shapes.yaml"),
        "--config-file", str(ROOT / "configs" / "trainers" / trainer.removesuffix("CPT") / "micro.yaml"),
        "--seed", str(seed), *options,
        "DATASET.NAME", "TinyWorld", "DATASET.SUBSAMPLE_CLASSES", classes,
        "INPUT.SIZE", f"({RESOLUTION}, {RESOLUTION})", "DATALOADER.TRAIN_X.BATCH_SIZE", "8",
        "OPTIM.MAX_EPOCH", "2", "USE_CUDA", "False", "VERBOSE", "False", "TRAIN.CHECKPOINT_SECONDS", "0.0",
    ]  # fmt: skip


def call(*args, **options):
    command.main(command.parser().parse_args(words(*args, **options)))


def configured(*args, **options):
    return command.setup_cfg(command.parser().parse_args(words(*args, **options)))


def test_two_steps_of_the_field_train_on_base_then_evaluate_new(root, tmp_path):
    call(root, tmp_path / "base", "CoOpCPT")
    assert len(saved(tmp_path / "base")["class_names"]) == len(BASE)
    load = ("--eval-only", "--model-dir", str(tmp_path / "base"), "--load-epoch", "2")
    call(root, tmp_path / "new", "CoOpCPT", *load, classes="new")
    log = (tmp_path / "new" / "log.txt").read_text()
    assert "* total: 12" in log, "three new classes, four images each"
    assert "Finish training" not in log
    assert not list((tmp_path / "new").rglob("model.pth.tar*"))


def test_evaluation_of_the_training_classes_repeats_the_result(root, tmp_path):
    call(root, tmp_path / "base")
    load = ("--eval-only", "--model-dir", str(tmp_path / "base"), "--load-epoch", "2")
    call(root, tmp_path / "again", "CoOp", *load)
    trained, again = ((tmp_path / name / "log.txt").read_text() for name in ("base", "again"))
    start = "=> result"
    assert trained[trained.index(start) :].splitlines()[:6] == again[again.index(start) :].splitlines()[:6]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_seed_is_taken_literally_and_repeats(root, tmp_path, seed):
    for run in ("a", "b"):
        call(root, tmp_path / run, "MaPLe", seed=seed)
    assert saved(tmp_path / "a")["config"]["SEED"] == seed
    assert f"Setting fixed seed: {seed}" in (tmp_path / "a" / "log.txt").read_text()
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_seeds_differ(root, tmp_path):
    for seed in (0, 1):
        call(root, tmp_path / str(seed), seed=seed)
    first, second = (saved(tmp_path / str(seed))["state_dict"] for seed in (0, 1))
    assert not identical(first, second)


def test_negative_seed_is_drawn_and_logged(root, tmp_path):
    drawn = {configured(root, tmp_path, seed=-1).SEED for _ in range(3)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_resume_happens_on_request_only(root, tmp_path):
    call(root, tmp_path / "whole")
    output = tmp_path / "cut"
    with pytest.MonkeyPatch.context() as patch:
        stopped = raises_at(7, PromptTrainer.forward_backward, KeyboardInterrupt)
        patch.setattr(PromptTrainer, "forward_backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            call(root, output)
    with pytest.raises(CheckpointError, match="--resume"):
        call(root, output)
    call(root, output, "CoOp", "--resume")
    assert fingerprint(output) == fingerprint(tmp_path / "whole")
    assert "Resumed from" in (output / "log.txt").read_text()


def test_resume_folder_may_be_named(root, tmp_path):
    """Without a name it is the output folder, also where a configuration key follows."""
    assert str(tmp_path) == configured(root, tmp_path, "CoOp", "--resume").RESUME
    assert configured(root, tmp_path, "CoOp", "--resume", "/elsewhere").RESUME == "/elsewhere"
    assert str(tmp_path) == configured(root, tmp_path, "CoOp", "--resume", "--no-train").RESUME
    assert configured(root, tmp_path).RESUME == ""


def test_overrides_win_over_arguments_over_files(root, tmp_path):
    cfg = configured(root, tmp_path, "MaPLe")
    assert str(weights(root)) == cfg.MODEL.BACKBONE.NAME, "argument over file"
    assert cfg.OPTIM.MAX_EPOCH == 2, "override over file"
    assert cfg.TRAINER.MAPLE.N_CTX == 2
    assert cfg.is_frozen()


def test_no_train_builds_and_stops(root, tmp_path):
    call(root, tmp_path, "CoOp", "--no-train")
    assert not list(tmp_path.rglob("model.pth.tar*"))


def test_evaluation_without_a_folder_says_that_nothing_was_loaded(root, tmp_path):
    call(root, tmp_path, "CoOp", "--eval-only")
    assert "No folder to load from (--model-dir)" in (tmp_path / "log.txt").read_text()


def test_log_is_closed_after_an_error(root, tmp_path):
    with pytest.raises(CheckpointError, match="none in that folder"):
        call(root, tmp_path, "CoOp", "--eval-only", "--model-dir", str(tmp_path), "--load-epoch", "1")
    assert not logging.getLogger("cpt_plugin").handlers


def test_wrong_keys_are_named(root, tmp_path):
    given = [*words(root, tmp_path), "OPTIM.LRR", "1"]
    with pytest.raises(ConfigError, match=r"OPTIM\.LRR.*OPTIM\.LR'"):
        command.setup_cfg(command.parser().parse_args(given))


def test_the_command_ends_with_one_line_for_wrong_input(tmp_path):
    given = ["--output-dir", str(tmp_path), "--trainer", "CoOpp", "DATASET.NAME", "Shapes"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert "CoOp" in line
