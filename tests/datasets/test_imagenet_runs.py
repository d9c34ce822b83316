"""A model trained on ImageNet, evaluated on it and on its four variants, through train.py."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

import train as command
from cpt_plugin.cli.experiment import Experiment
from cpt_plugin.methods import parse_method
from cpt_plugin.protocols import plain_dataset
from tests.helpers.fixtures import make_fixture
from tests.helpers.tiny_world import tiny_arguments
from tests.helpers.train_command import dataset_yaml, train_log, train_words

VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("imagenet")
    for name in ("imagenet", *VARIANTS):
        make_fixture(name, root)
    return root


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    log = train_log(dataset_yaml("imagenet"), root, output, "CoOpCPT", "DATASET.NUM_SHOTS", "4")
    assert "* total: 10" in log, "five classes, two validation images each"
    assert "Finish training" in log
    return output


@pytest.mark.parametrize(("name", "images"), [*zip(VARIANTS, (30, 30, 12, 24), strict=True)])
def test_the_trained_prompts_are_evaluated_on_a_variant(root, trained, tmp_path, name, images):
    load = ("--eval-only", "--model-dir", str(trained), "--load-epoch", "1")
    log = train_log(dataset_yaml(name), root, tmp_path, "CoOpCPT", "TEST.PER_CLASS_RESULT", "True", flags=load)
    assert f"* total: {images}" in log
    assert "Finish training" not in log
    tested = re.findall(r"\* class: (\d+) \(scorpion\)", log)
    assert tested == [{"imagenet_a": "1"}.get(name, "2")], "by the variant's own labels"


def test_a_variant_cannot_be_trained_on(root, tmp_path, capsys):
    words = train_words(dataset_yaml("imagenet_a"), root, tmp_path, "CoOp")
    assert command.cli(words) == 2
    assert "ImageNetA has no training images; it can only be evaluated (--eval-only)" in capsys.readouterr().err


def test_zero_shot_needs_no_training(root, tmp_path):
    log = train_log(
        dataset_yaml("imagenet_r"), root, tmp_path, "ZeroshotCLIP", learner="ZeroshotCLIP", flags=["--eval-only"]
    )
    assert "* total: 24" in log


def test_base_to_new_with_two_classes_of_one_name(root, tmp_path):
    arguments = tiny_arguments(root, tmp_path, "maple_cpt", "DATASET.NAME", "ImageNet", tau=0.5)
    arguments = dataclasses.replace(arguments, dataset="imagenet", shots=3, epochs=1)
    record = Experiment(parse_method("maple_cpt"), 1, arguments).execute().record
    assert [(each.name, each.total) for each in record.evaluations["new"].per_class] == [("missile", 2), ("missile", 2)]
    assert [each.name for each in record.evaluations["base"].per_class] == ["goldfish", "stingray", "scorpion"]


def test_clusters_hold_both_classes_of_one_name(root, tmp_path):
    log = train_log(dataset_yaml("imagenet"), root, tmp_path, "MaPLeCPT", "TRAINER.MAPLE.PROMPT_DEPTH", "2",
                    "DATASET.NUM_SHOTS", "2", learner="MaPLe")  # fmt: skip
    assert "CPT: 2 clusters over 5 classes" in log
    assert "* total: 10" in log


def test_records_say_which_data_sets_are_incomplete_the_targets_too(root, tmp_path):
    arguments = tiny_arguments(root, tmp_path, "zeroshot", "DATASET.NAME", "ImageNet")
    arguments = dataclasses.replace(arguments, dataset="imagenet", shots=3, protocol="domain_generalization")
    record = Experiment(parse_method("zeroshot"), 1, arguments).execute().record
    targets = ", ".join(f"{name} (incomplete)" for name in sorted(VARIANTS))
    assert record.dataset == f"imagenet (incomplete, {targets})"
    assert plain_dataset(record.dataset) == "imagenet"
    assert {name: one.dataset for name, one in record.evaluations.items()} == {
        "source": "imagenet (incomplete)", **{name: f"{name} (incomplete)" for name in VARIANTS},
    }  # fmt: skip
