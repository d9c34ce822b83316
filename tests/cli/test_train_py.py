"""train.py: the command line of the CoOp family."""

from __future__ import annotations

import logging
import re
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
    learner = trainer.removesuffix("CPT").removesuffix("DPC")
    return [
        "--root", str(root), "--output-dir", str(output), "--trainer", trainer, "--backbone", str(weights(root)),
        "--dataset-config-file", str(ROOT / "configs" / "datasets" / "shapes.yaml"),
        "--config-file", str(ROOT / "configs" / "trainers" / learner / "micro.yaml"),
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


def test_second_stage_starts_from_the_folder_of_the_first(root, tmp_path, capsys):
    dpc = ("--config-file", str(ROOT / "configs" / "trainers" / "DPC" / "micro.yaml"))
    chosen = configured(root, tmp_path, "CoOpDPC", *dpc)
    assert (chosen.OPTIM.LR, chosen.TRAINER.COOP.N_CTX) == (0.01, 4), "of both files"
    assert command.cli(words(root, tmp_path / "early", "CoOpDPC", *dpc)) == 2
    assert "train CoOp first" in capsys.readouterr().err
    call(root, tmp_path / "first")
    missing = [*words(root, tmp_path / "early", "CoOpDPC", *dpc), "TRAINER.DPC.STAGE_ONE", str(tmp_path / "nothing")]
    assert command.cli(missing) == 2
    assert "nothing holds no prompts of CoOp" in capsys.readouterr().err
    given = [*words(root, tmp_path / "second", "CoOpDPC", *dpc), "TRAINER.DPC.STAGE_ONE", str(tmp_path / "first")]
    assert command.cli(given) == 0
    state = saved(tmp_path / "second")["state_dict"]
    assert torch.equal(state["stage_one.ctx"], saved(tmp_path / "first")["state_dict"]["ctx"])
    load = ("--eval-only", "--model-dir", str(tmp_path / "second"), "--load-epoch", "2")
    call(root, tmp_path / "new", "CoOpDPC", *dpc, *load, classes="new")
    assert "* total: 12" in (tmp_path / "new" / "log.txt").read_text()


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


def test_resume_without_a_folder_is_that_of_the_merged_configuration(root, tmp_path, monkeypatch):
    def parsed(*given):
        return command.setup_cfg(command.parser().parse_args([*given]))

    assert parsed("--resume").RESUME == parsed().OUTPUT_DIR == "./output"
    assert parsed("--resume", "--seed", "1", "OUTPUT_DIR", "elsewhere").RESUME == "elsewhere"
    assert parsed("--resume", "OUTPUT_DIR", "elsewhere").RESUME == "elsewhere"
    assert parsed("--resume", "--seed", "1", "RESUME", "there").RESUME == "there"
    assert parsed("--output-dir", "x", "--resume", ".").RESUME == ".", "the current folder, as it says"
    with pytest.raises(ConfigError, match="give --output-dir, or --resume DIR"):
        parsed("--resume", "--seed", "1", "OUTPUT_DIR", "")


def test_resume_alone_goes_on_instead_of_starting_anew(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = words(root, "output")
    del given[given.index("--output-dir") : given.index("--output-dir") + 2]
    with pytest.MonkeyPatch.context() as patch:
        stopped = raises_at(7, PromptTrainer.forward_backward, KeyboardInterrupt)
        patch.setattr(PromptTrainer, "forward_backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            command.main(command.parser().parse_args(given))
    command.main(command.parser().parse_args(["--resume", *given]))
    assert "Resumed from output/resume/state-000000007" in (tmp_path / "output" / "log.txt").read_text()


def test_finished_training_is_not_written_over(root, tmp_path):
    call(root, tmp_path)
    (path,) = tmp_path.rglob("model.pth.tar-2")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="holds this run, finished"):
        call(root, tmp_path)
    with pytest.raises(CheckpointError, match=r"write over the models.*SEED: 1 != 2"):
        call(root, tmp_path, seed=2)
    call(root, tmp_path, "CoOp", "--resume")
    assert path.read_bytes() == before


def test_overrides_win_over_arguments_over_files(root, tmp_path):
    cfg = configured(root, tmp_path, "MaPLe")
    assert str(weights(root)) == cfg.MODEL.BACKBONE.NAME, "argument over file"
    assert cfg.OPTIM.MAX_EPOCH == 2, "override over file"
    assert cfg.TRAINER.MAPLE.N_CTX == 2
    assert cfg.is_frozen()


def test_the_largest_class_follows_the_shots_unless_given(root, tmp_path):
    tail = ("DATASET.NUM_SHOTS", "8", "DATASET.IMBALANCE_TAU", "0.25")
    for more, expected in ((), 8), (("DATASET.MAX_PER_CLASS", "16"), 16):
        given = [*words(root, tmp_path), *tail, *more]
        cfg = command.setup_cfg(command.parser().parse_args(given))
        assert expected == cfg.DATASET.MAX_PER_CLASS


def test_no_train_builds_and_stops(root, tmp_path):
    call(root, tmp_path, "CoOp", "--no-train")
    assert not list(tmp_path.rglob("model.pth.tar*"))


def test_evaluation_needs_a_folder_unless_nothing_was_to_be_trained(root, tmp_path):
    with pytest.raises(ConfigError, match="--eval-only needs the folder of a training of CoOp: give --model-dir"):
        call(root, tmp_path, "CoOp", "--eval-only")
    assert not list(tmp_path.iterdir()), "refused before anything was written"
    call(root, tmp_path, "ZeroshotCLIP", "--eval-only")
    assert "* total: 16" in (tmp_path / "log.txt").read_text()


def without(option, given):
    position = given.index(option)
    return [*given[:position], *given[position + 2 :]]


def replaced(option, value, given):
    position = given.index(option)
    return [*given[: position + 1], value, *given[position + 2 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: replaced("--trainer", "CoOpp", w), "--trainer CoOpp: .*did you mean 'CoOp'"),
        (lambda w: without("--trainer", w), "give --trainer NAME, one of .*MaPLeCPT"),
        (lambda w: without("--dataset-config-file", without("DATASET.NAME", w)), "give --dataset-config-file FILE"),
        (lambda w: replaced("--dataset-config-file", "absent.yaml", w), "--dataset-config-file: .*no file absent.yaml"),
        (lambda w: replaced("--config-file", "absent.yaml", w), "--config-file: there is no file absent.yaml"),
        (lambda w: replaced("--seed", str(2**32), w), "--seed 4294967296 is outside 0 .. 4294967295"),
        (lambda w: [*w, "SEED", str(2**40)], "--seed 1099511627776 is outside"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(root, tmp_path, capsys, change, message):
    given = change(words(root, tmp_path / "output"))
    with pytest.raises(ConfigError, match=message):
        command.main(command.parser().parse_args(given))
    assert not (tmp_path / "output").exists()
    assert "Config" not in capsys.readouterr().out


def test_data_set_may_be_named_without_its_file(root, tmp_path):
    given = without("--dataset-config-file", words(root, tmp_path))
    command.main(command.parser().parse_args(["--no-train", *given]))


def test_output_folder_that_cannot_be_written_is_named(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.cli(words(root, tmp_path / "file" / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train.py: cannot write the log {tmp_path}/file/run/log.txt: Not a directory")


def test_seed_of_a_configuration_file_counts_unless_one_is_given(root, tmp_path):
    path = tmp_path / "seed.yaml"
    path.write_text("SEED: 5\n")
    given = ["--config-file", str(path), "DATASET.NAME", "TinyWorld"]
    assert command.setup_cfg(command.parser().parse_args(given)).SEED == 5
    assert command.setup_cfg(command.parser().parse_args(["--seed", "0", *given])).SEED == 0


# -- exit status -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "hint"), [(0, "nothing was saved yet"), (3, "to go on.*--resume OUT --seed 1 ")])
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(root, tmp_path, monkeypatch, capsys, step, hint):
    monkeypatch.setattr(
        PromptTrainer, "forward_backward", raises_at(step, PromptTrainer.forward_backward, KeyboardInterrupt)
    )
    assert command.cli(words(root, tmp_path)) == 130
    error = capsys.readouterr().err
    assert re.search(f"train.py: interrupted; {hint.replace('OUT', str(tmp_path))}", error)
    assert "Traceback" not in error
    if step:
        monkeypatch.undo()
        assert command.cli(["--resume", *words(root, tmp_path)]) == 0


def test_ctrl_c_during_an_evaluation_promises_no_resume(root, tmp_path, monkeypatch, capsys):
    call(root, tmp_path / "run")
    load = ("--eval-only", "--model-dir", str(tmp_path / "run"), "--load-epoch", "2")
    monkeypatch.setattr(PromptTrainer, "model_inference", interrupted)
    assert command.cli(words(root, tmp_path / "again", "CoOp", *load)) == 130
    assert capsys.readouterr().err.endswith("train.py: interrupted\n")


def interrupted(self, image):
    raise KeyboardInterrupt


def test_log_is_closed_after_an_error(root, tmp_path):
    with pytest.raises(CheckpointError, match="none in that folder"):
        call(root, tmp_path, "CoOp", "--eval-only", "--model-dir", str(tmp_path), "--load-epoch", "1")
    assert not logging.getLogger("cpt_plugin").handlers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["DATASET.IMBALANCE_TAU", "2"], r"DATASET\.IMBALANCE_TAU must be in \(0, 1\]"),
        (["DATASET.SUBSAMPLE_CLASSES", "bsae"], r"DATASET\.SUBSAMPLE_CLASSES must be .*base"),
        (["TRAINER.COOP.CTX_INIT", "a photo"], r"has 2 words: set N_CTX 2"),
    ],
)
def test_wrong_values_are_told_before_anything_is_written(root, tmp_path, options, message):
    given = command.parser().parse_args([*words(root, tmp_path / "out"), *options])
    with pytest.raises(ConfigError, match=message):
        command.main(given)
    given = command.parser().parse_args(["--model-dir", str(tmp_path / "x"), *words(root, tmp_path / "out")])
    with pytest.raises(ConfigError, match="there is no such folder"):
        command.main(given)
    assert not (tmp_path / "out").exists()


def test_wrong_keys_are_named(root, tmp_path):
    given = [*words(root, tmp_path), "OPTIM.LRR", "1"]
    with pytest.raises(ConfigError, match=r"OPTIM\.LRR.*OPTIM\.LR'"):
        command.setup_cfg(command.parser().parse_args(given))


def test_the_command_ends_with_one_line_for_wrong_input(tmp_path):
    given = ["--output-dir", str(tmp_path), "--trainer", "CoOpp", "DATASET.NAME", "Shapes"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert "CoOp" in line


def test_public_functions_say_what_they_do():
    functions = [command.parser, command.setup_cfg, command.check, command.run, command.main, command.cli]
    assert [function.__name__ for function in functions if not function.__doc__] == []


@pytest.mark.parametrize(
    ("given", "variable", "expected"), [("here", "there", "here"), ("", "there", "there"), ("", None, "data")]
)
def test_the_data_folder_is_given_or_the_variable_or_data(root, tmp_path, monkeypatch, given, variable, expected):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    if variable:
        monkeypatch.setenv("DATA_ROOT", variable)
    _, _, *rest = words(root, tmp_path)
    folder = command.setup_cfg(command.parser().parse_args(["--root", given, *rest])).DATASET.ROOT
    assert folder == expected
