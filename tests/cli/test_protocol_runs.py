"""Runs of every protocol on small drawings of the embedded worlds."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.cli.run import run
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import parse_method
from cpt_plugin.protocols import tasks
from cpt_plugin.results import record as records
from datasets.shapes_world import store
from tests.trainers.problems import raises_at, saved
from trainers._base import PromptTrainer

WORLD = "shapes:colors:shift"
SMALL = ("--seeds", "1", "--epochs", "1", "--shots", "4", "DATALOADER.TRAIN_X.BATCH_SIZE", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "IMAGES_PER_CLASS", {"train": 4, "val": 1, "test": 2})
        yield tmp_path_factory.mktemp("protocols")


def experiment(folder, method, protocol, *words):
    own = ["--root", str(folder / "data"), "--output", str(folder / "output"), *words]
    args = parse_arguments([method, WORLD, "0.5", "--protocol", protocol, *SMALL, *own])
    return Experiment(args.method, 1, args)


@pytest.fixture(scope="module")
def cross(folder):
    """coop_dpc, with its first stage, from colors to the other class sets."""
    one = experiment(folder, "coop_dpc", "cross_dataset")
    return one, one.execute().record


@pytest.fixture
def no_step(monkeypatch):
    monkeypatch.setattr(PromptTrainer, "forward_backward", raises_at(0, None, AssertionError))


def test_cross_dataset_record_holds_the_source_and_every_target(cross):
    one, record = cross
    expected = tasks("cross_dataset", WORLD)
    assert list(record.evaluations) == [task.name for task in expected]
    assert record.protocol == "cross_dataset"
    assert record.config["DATASET.SUBSAMPLE_CLASSES"] == "all"
    sizes = {name: len(found.per_class) for name, found in record.evaluations.items()}
    assert sizes["source"] == 12
    assert sizes["shapes:triples:clean"] == 48
    assert sum(sizes.values()) == 12 + 6 * 48 + 16
    assert len({found.split_hash for found in record.evaluations.values()}) == len(expected)
    assert all(found.dataset == task.dataset for found, task in zip(record.evaluations.values(), expected, strict=True))
    assert sum(group.classes for name, group in record.groups.items() if name in ("head", "mid", "tail")) == 12
    assert records.load(one.record_file) == record
    assert one.folder == one.arguments.output / "shapes-colors-shift/coop_dpc/tau0.5-transfer/seed1"


def test_dpc_evaluates_other_data_sets_as_new_classes(cross):
    """WEIGHT_NEW is 0 there, so they are predicted by stage one; the source is not."""
    one, record = cross
    first = records.load(one.first_stage.record_file)
    assert list(first.evaluations) == list(record.evaluations)
    for name, found in record.evaluations.items():
        if name != "source":
            assert found == first.evaluations[name]
    weights = {name: one.config(name).TRAINER.DPC.WEIGHT_BASE for name in ("", "shapes:triples:clean")}
    assert weights == {"": 0.2, "shapes:triples:clean": 0.0}
    same_classes = experiment(one.arguments.output.parent, "coop_dpc", "domain_generalization")
    assert same_classes.config("shapes:colors:warp").TRAINER.DPC.WEIGHT_BASE == 0.2


def test_domain_generalization_finds_the_training_of_cross_dataset(folder, cross, no_step):
    one, record = cross
    other = experiment(folder, "coop_dpc", "domain_generalization")
    assert other.folder == one.folder
    assert other.record_file != one.record_file
    found = other.execute().record
    assert list(found.evaluations) == [task.name for task in tasks("domain_generalization", WORLD)]
    assert found.evaluations["source"] == record.evaluations["source"]
    assert (found.prompts_hash, found.losses, found.history) == (record.prompts_hash, record.losses, record.history)
    assert other.execute().status == one.execute().status == "finished before"


def test_all_classes_are_trained_in_a_folder_of_their_own(folder):
    one = experiment(folder, "coop", "few_shot_all", "TRAINER.COOP.CSC", "True", "TRAINER.COOP.CTX_INIT", "")
    record = one.execute().record
    assert list(record.metrics) == ["all"]
    assert one.folder.parent.name == "tau0.5-all"
    state = saved(one.folder)["state_dict"]
    assert state["ctx"].shape[0] == 12, "a context a class, which no other evaluation could use"


def test_class_specific_contexts_are_refused_before_training(folder, no_step):
    one = experiment(folder, "coop", "cross_dataset", "TRAINER.COOP.CSC", "True", "--output", str(folder / "csc"))
    with pytest.raises(ConfigError, match=r"CSC True.*few_shot_all"):
        one.execute()


def test_evaluations_that_the_protocol_no_longer_has_are_named(folder, cross, monkeypatch, no_step):
    one, record = cross
    output = folder / "changed"
    shutil.copytree(one.arguments.output, output)
    changed = Experiment(one.method, 1, dataclasses.replace(one.arguments, output=output))
    kept = dict(list(record.evaluations.items())[:-1])
    records.save(dataclasses.replace(record, evaluations=kept), changed.record_file)
    with pytest.raises(ConfigError, match=r"shapes:other_texture_shape:clean.*delete that file"):
        changed.execute()
    changed.record_file.unlink()
    assert changed.execute().record.evaluations == record.evaluations


def test_killed_between_two_evaluations_it_goes_on_without_training(folder, cross, monkeypatch):
    one, _ = cross
    again = Experiment(parse_method("coop"), 1, dataclasses.replace(one.arguments, output=folder / "killed"))
    evaluate, tests = PromptTrainer.test, iter(range(100))

    def test(self, split=None):
        if next(tests) == 3:
            raise KeyboardInterrupt
        return evaluate(self, split)

    monkeypatch.setattr(PromptTrainer, "test", test)
    with pytest.raises(KeyboardInterrupt):
        again.execute()
    assert not again.record_file.exists()
    monkeypatch.setattr(PromptTrainer, "forward_backward", raises_at(0, None, AssertionError))
    outcome = again.execute()
    assert outcome.status == "resumed"
    first = records.load(one.first_stage.record_file)
    assert (outcome.record.evaluations, outcome.record.prompts_hash) == (first.evaluations, first.prompts_hash)


def test_variants_have_folders_of_their_own_and_baselines_do_not(folder):
    pairs = ("CPT.WEIGHT_CC", "0.0", "CPT.WEIGHT_RS", "0")
    one = experiment(folder, "coop_cpt", "base_to_new", "--variant", *pairs)
    name = "DATALOADER.TRAIN_X.BATCH_SIZE=8,CPT.WEIGHT_CC=0,CPT.WEIGHT_RS=0"
    assert one.folder.parts[-4:] == ("coop_cpt", "tau0.5", name, "seed1")
    baseline = Experiment(one.method.baseline, 1, one.arguments)
    assert baseline.folder.parts[-3:] == ("tau0.5", "DATALOADER.TRAIN_X.BATCH_SIZE=8", "seed1")
    plain = experiment(folder, "coop_cpt", "base_to_new", *pairs)
    assert plain.folder.parts[-3:] == ("coop_cpt", "tau0.5", "seed1")
    record = one.execute().record
    assert record.variant == name
    assert record.config["CPT.WEIGHT_CC"] == 0.0
    assert "loss_etf" in record.losses
    assert "loss_cc" not in record.losses


def test_command_prints_a_table_of_every_target(folder, cross, capsys):
    one, _ = cross
    assert run(dataclasses.replace(one.arguments, method=parse_method("coop_dpc"))) == 0
    printed = capsys.readouterr().out
    assert "cross dataset" in printed
    lines = printed[printed.index("\nmethod ") : printed.index("\ntable: ")].splitlines()
    assert max(map(len, lines)) <= 110
    for target in ("triples:clean", "texture_shape:clean", "shapes:clean", "mean"):
        assert any(line.startswith("method ") and target in line for line in lines)
    assert "mean, coop_dpc:" in printed
    tables = one.arguments.folder / "tables"
    assert (tables / "coop_dpc-tau0.5-cross_dataset.md").is_file()


def test_published_transfer_settings_are_taken_for_transfer_protocols_only(folder):
    arguments = dataclasses.replace(
        experiment(folder, "maple_cpt", "base_to_new").arguments, dataset="eurosat", backbone="ViT-B/16", opts=(),
        epochs=None,
    )  # fmt: skip

    def settings(protocol):
        changed = dataclasses.replace(arguments, protocol=protocol)
        cfg = Experiment(arguments.method, 1, changed).config()
        return cfg.TRAINER.MAPLE.PROMPT_DEPTH, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.TRAINER.MAPLE.N_CTX

    assert settings("base_to_new") == settings("few_shot_all") == (9, 0.0035, 5, 2)
    assert settings("cross_dataset") == (3, 0.0026, 2, 2)
