"""Two stages on the command's path: stage one is its own run, the second starts from its prompts and no others."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.results import record as records
from tests.helpers.tiny_world import tiny_arguments, tiny_experiment, write_world
from tests.trainers.loading import rewritten
from tests.trainers.problems import raises_at, saved
from trainers._base import PromptTrainer

HASH = "TRAINER.DPC.STAGE_ONE_HASH"
METHODS = ("coop_dpc", "maple_dpc_cpt")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("dpc"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """Experiments with their outcomes; nobody may change these folders."""
    runs = {}
    for method in METHODS:
        experiment = tiny_experiment(root, tmp_path_factory.mktemp(method), method)
        runs[method] = (experiment, experiment.execute())
    return runs


@pytest.fixture
def copy(finished, tmp_path):
    """The coop_dpc experiment with a copy of its output in another folder."""
    experiment, _ = finished["coop_dpc"]
    output = tmp_path / "copy"
    shutil.copytree(experiment.arguments.output, output)
    return Experiment(experiment.method, experiment.seed, dataclasses.replace(experiment.arguments, output=output))


def change_stage_one(experiment, change_record=True):
    """Put other prompts into the folder of stage one, as another training would."""
    first = experiment.first_stage
    rewritten(first.folder, first.folder, lambda content: content["state_dict"]["ctx"].add_(0.1))
    if change_record:
        changed = dataclasses.replace(records.load(first.record_file), prompts_hash="1" * 64)
        records.save(changed, first.record_file)


@pytest.mark.parametrize("method", METHODS)
def test_stage_one_is_a_run_of_its_own(root, finished, method):
    experiment, outcome = finished[method]
    first = experiment.first_stage
    plain = records.load(first.record_file)
    assert (plain.method, plain.regularizers) == (method.split("_")[0], ())
    assert not any(key.startswith("TRAINER.DPC") for key in plain.config)
    assert outcome.record.config[HASH] == plain.prompts_hash != ""
    assert outcome.record.prompts_hash not in ("", plain.prompts_hash)
    assert [e.split_hash for e in outcome.record.evaluations.values()] == [
        e.split_hash for e in plain.evaluations.values()
    ]
    assert not {"TRAINER.DPC.STAGE_ONE", "TRAINER.DPC.STAGE_ONE_EPOCH"} & set(outcome.record.config)
    again = first.execute()
    assert (again.status, again.record) == ("finished before", plain)


@pytest.mark.parametrize("method", METHODS)
def test_record_shows_that_the_second_stage_worked(finished, method):
    experiment, outcome = finished[method]
    record = outcome.record
    assert record.method == method
    losses = {"loss", "loss_dpc"} | ({"loss_reg", "loss_etf", "loss_cc", "loss_rs"} if "cpt" in method else set())
    assert set(record.losses) == losses
    assert record.history[0]["loss_dpc"] != record.history[1]["loss_dpc"]
    state = saved(experiment.folder)["state_dict"]
    assert not torch.equal(state["stage_one.ctx"], state["parallel.ctx"])


@pytest.mark.parametrize("method", METHODS)
def test_predictions_of_the_new_classes_are_those_of_stage_one(finished, method):
    experiment, outcome = finished[method]
    first = experiment.first_stage
    assert outcome.record.evaluations["new"].per_class == records.load(first.record_file).evaluations["new"].per_class
    logits = []
    for one in (first, experiment):
        toolkit.set_random_seed(1)
        trainer = toolkit.build_trainer(one.config("new"))
        trainer.load_model(str(one.folder), epoch=2)
        trainer.set_model_mode("eval")
        with torch.no_grad():
            logits.append(torch.cat([trainer.model_inference(batch["img"]) for batch in trainer.test_loader]))
    assert torch.equal(*logits)
    assert logits[0].std() > 0.01


def test_base_classes_are_not_predicted_by_stage_one(finished):
    experiment, _ = finished["coop_dpc"]
    logits = []
    for one in (experiment.first_stage, experiment):
        trainer = toolkit.build_trainer(one.config("base"))
        trainer.load_model(str(one.folder), epoch=2)
        trainer.set_model_mode("eval")
        with torch.no_grad():
            logits.append(trainer.model_inference(next(iter(trainer.test_loader))["img"]))
    assert not torch.equal(*logits)


@pytest.mark.parametrize("step", [1, 5])
def test_interrupted_in_either_stage_it_ends_with_the_same_record(root, tmp_path, finished, step):
    """Steps 0 to 3 of either stage; the counter goes on over both."""
    experiment, steps = tiny_experiment(root, tmp_path, "coop_dpc"), iter(range(100))
    original = PromptTrainer.forward_backward

    def forward_backward(self, batch):
        if next(steps) == step:
            raise KeyboardInterrupt
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", forward_backward)
        with pytest.raises(KeyboardInterrupt):
            experiment.execute()
    assert experiment.first_stage.record_file.is_file() == (step >= 4)
    outcome = experiment.execute()
    assert outcome.status == ("resumed" if step >= 4 else "new")
    for key in ("evaluations", "history", "prompts_hash", "config", "losses"):
        assert getattr(outcome.record, key) == getattr(finished["coop_dpc"][1].record, key)


def test_finished_run_needs_the_record_of_stage_one_only(copy, finished, monkeypatch):
    """In another place; nothing is trained."""
    monkeypatch.setattr(PromptTrainer, "forward_backward", raises_at(0, None, AssertionError))
    for path in copy.first_stage.folder.glob("*/model.pth.tar-*"):
        path.unlink()
    assert copy.execute().record == finished["coop_dpc"][1].record


def test_changed_stage_one_is_noticed_by_a_finished_run(copy):
    change_stage_one(copy)
    with pytest.raises(ConfigError, match=rf'{HASH}: "[0-9a-f]{{64}}" != "1{{64}}".*delete that folder'):
        copy.execute()


def test_changed_stage_one_is_noticed_by_an_unfinished_run(root, tmp_path):
    experiment = tiny_experiment(root, tmp_path, "coop_dpc")
    experiment.first_stage.execute()
    stopped = raises_at(2, PromptTrainer.forward_backward, KeyboardInterrupt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            experiment.execute()
    change_stage_one(experiment)
    with pytest.raises(ConfigError, match=HASH):
        experiment.execute()


def test_prompts_that_are_not_those_of_the_record_are_refused(copy):
    shutil.rmtree(copy.folder)
    change_stage_one(copy, change_record=False)
    with pytest.raises(CheckpointError, match="STAGE_ONE_HASH says"):
        copy.execute()
    assert not (copy.folder / "run.json").exists()


def test_settings_hold_for_both_stages_but_dpcs_own(root, tmp_path):
    opts = ("OPTIM.LR", "0.03", "TRAINER.DPC.TOP_K", "2", "MODEL.INIT_WEIGHTS", "")
    experiment = tiny_experiment(root, tmp_path, "coop_dpc_cpt", *opts)
    second, first = experiment.config("base"), experiment.first_stage.config("base")
    assert (second.OPTIM.LR, first.OPTIM.LR) == (0.03, 0.03)
    assert (second.OPTIM.MAX_EPOCH, first.OPTIM.MAX_EPOCH) == (2, 2)
    assert (second.TRAINER.DPC.TOP_K, first.TRAINER.DPC.TOP_K) == (2, 8)
    assert (second.TRAINER.NAME, first.TRAINER.NAME) == ("CoOpDPCCPT", "CoOp")


def test_second_stage_takes_the_learners_settings_and_then_its_own(root, tmp_path):
    arguments = dataclasses.replace(tiny_arguments(root, tmp_path, "coop_dpc"), opts=(), epochs=None)
    experiment = tiny_experiment(root, tmp_path, "coop_dpc")
    second = Experiment(experiment.method, 1, arguments).config("base")
    first = Experiment(experiment.method.first_stage, 1, arguments).config("base")
    assert (first.DATALOADER.TRAIN_X.BATCH_SIZE, second.DATALOADER.TRAIN_X.BATCH_SIZE) == (32, 4)
    assert first.TRAINER.COOP == second.TRAINER.COOP
    assert first.TRAINER.COOP.N_CTX == 4, "of the yaml; the default is 16"


def test_other_methods_do_not_read_dpcs_settings(root, tmp_path):
    experiment = tiny_experiment(root, tmp_path, "coop_cpt", "TRAINER.DPC.TOP_K", "2")
    assert experiment.config("base").TRAINER.DPC.TOP_K == 8
    assert experiment.first_stage is None


def test_folders_are_compared_without_data_and_a_missing_first_stage_decides_nothing(copy):
    elsewhere = dataclasses.replace(copy, arguments=dataclasses.replace(copy.arguments, root=copy.folder / "nowhere"))
    assert [one.method.name for one in elsewhere.with_earlier] == ["coop", "coop_dpc"]
    elsewhere.check_folder()
    change_stage_one(elsewhere)
    with pytest.raises(ConfigError, match=HASH):
        elsewhere.check_folder()
    shutil.rmtree(elsewhere.first_stage.folder)
    elsewhere.check_folder()
