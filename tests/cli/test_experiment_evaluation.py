"""Methods that change the evaluation alone: they evaluate the prompts of another run, and notice when these change."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.run import plan_runs
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.results import record as records
from tests.helpers.tiny_world import tiny_arguments, tiny_experiment, write_world
from tests.trainers.loading import rewritten


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """coop_mix at a fraction that changes results, with its outcome; nobody may change the folder."""
    output = tmp_path_factory.mktemp("mix")
    experiment = tiny_experiment(root, output, "coop_mix", "OPTIM.LR", "1.0", "MIX.FRACTION", "0.9")
    return experiment, experiment.execute()


@pytest.fixture
def copy(finished, tmp_path):
    experiment, _ = finished
    shutil.copytree(experiment.arguments.output, tmp_path / "copy")
    arguments = dataclasses.replace(experiment.arguments, output=tmp_path / "copy")
    return Experiment(experiment.method, experiment.seed, arguments)


def test_the_prompts_are_those_of_the_plain_run(finished):
    experiment, outcome = finished
    trained = records.load(experiment.trained.record_file)
    record = outcome.record
    assert (record.method, record.regularizers, trained.method) == ("coop_mix", ("mix",), "coop")
    assert record.prompts_hash == trained.prompts_hash
    assert (record.losses, record.history) == (trained.losses, trained.history)
    assert record.timings["train"] == trained.timings["train"]
    mixed, plain = record.evaluations, trained.evaluations
    assert list(mixed) == list(plain) == ["base", "new"]
    assert mixed["base"].per_class != plain["base"].per_class
    assert [part.split_hash for part in mixed.values()] == [part.split_hash for part in plain.values()]
    assert record.config["MIX.FRACTION"] == 0.9
    assert "MIX.FRACTION" not in trained.config
    assert not list(experiment.folder.rglob("*.pth.tar*"))


def test_given_again_it_is_finished(copy):
    before = copy.record_file.read_bytes()
    assert copy.execute().status == "finished before"
    assert copy.record_file.read_bytes() == before


def test_another_fraction_needs_another_folder(copy):
    opts = tuple(word if word != "0.9" else "0.4" for word in copy.arguments.opts)
    other = Experiment(copy.method, copy.seed, dataclasses.replace(copy.arguments, opts=opts))
    with pytest.raises(ConfigError, match=r"MIX.FRACTION: 0.9 != 0.4"):
        other.execute()
    assert other.trained.execute().status == "finished before"


def test_prompts_that_were_trained_again_are_noticed(copy):
    path = copy.trained.record_file
    records.save(dataclasses.replace(records.load(path), prompts_hash="1" * 64), path)
    with pytest.raises(ConfigError, match="the prompts that it evaluates changed since"):
        copy.execute()


def test_prompts_that_are_not_those_of_their_record_are_refused(copy):
    shutil.rmtree(copy.folder)
    rewritten(copy.trained.folder, copy.trained.folder, lambda content: content["state_dict"]["ctx"].add_(0.1))
    with pytest.raises(CheckpointError, match="not those of its record"):
        copy.execute()
    assert not copy.record_file.exists()


def test_plans(root, tmp_path):
    def plan(name, baseline=True):
        arguments = dataclasses.replace(tiny_arguments(root, tmp_path, name), baseline=baseline)
        return [method.name for method, _ in plan_runs(arguments)]

    assert plan("coop_mix") == ["zeroshot", "coop", "coop_mix"]
    assert plan("coop_mix", baseline=False) == ["coop", "coop_mix"]
    assert plan("coop_la_cptb") == ["zeroshot", "coop", "coop_la_cptb"]
    assert plan("coop_la_mix") == ["zeroshot", "coop", "coop_la", "coop_la_mix"]
    assert plan("coop_dpc_la") == ["zeroshot", "coop", "coop_dpc", "coop_la", "coop_dpc_la"]
    assert plan("coop_dpc_la_mix", baseline=False) == ["coop_la", "coop_dpc_la", "coop_dpc_la_mix"]
    assert plan("maple_dpc_cpt") == ["zeroshot", "maple", "maple_dpc", "maple_dpc_cpt"]


def test_stop_sets_its_key_and_does_not_let_it_be_changed(root, tmp_path):
    experiment = tiny_experiment(root, tmp_path, "coop_stop")
    assert experiment.config("base").TEST.FINAL_MODEL == "best_val"
    assert tiny_experiment(root, tmp_path, "coop").config("base").TEST.FINAL_MODEL == "last_step"
    other = tiny_experiment(root, tmp_path, "coop_stop", "TEST.FINAL_MODEL", "last_step")
    with pytest.raises(ConfigError, match=r"stop needs TEST\.FINAL_MODEL best_val"):
        other.check()


def test_settings_of_a_loss_are_read_by_its_methods_only(root, tmp_path):
    plain, own = (tiny_experiment(root, tmp_path, name) for name in ("coop", "coop_la"))
    assert own.reads("LA.TAU")
    assert not plain.reads("LA.TAU")
    assert not own.reads("CB.BETA")
    wrong = tiny_experiment(root, tmp_path, "coop_cb", "CB.BETA", "1.0")
    with pytest.raises(ConfigError, match=r"CB\.BETA must be a finite number >= 0 and < 1"):
        wrong.check()
    assert own.config().LA.TAU == 1.0
