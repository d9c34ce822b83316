"""CPTX in our trainers: its defaults are CPTB to the bit, every option trains, and interrupted runs go on."""

from __future__ import annotations

import shutil

import pytest

from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import fingerprint, prompt_cfg, train
from tests.trainers.problems import raises_at, saved, trained_part
from trainers._base import PromptTrainer

OPTIONS = {
    "schedule": ("CPTX.SCHEDULE", "rising"),
    "power": ("CPTX.CLASS_POWER", 1.0),
    "target": ("CPTX.ETF_TARGET", "frozen"),
    "radius": ("CPTX.RS_RADIUS", "learned"),
}
CHANGED = {"schedule": set(), "power": {"etf", "rs"}, "target": {"etf"}, "radius": {"rs"}}
ALL = [word for option in OPTIONS.values() for word in option]


def run(folder, output, trainer, *options, epochs=1):
    taken = ("CPTX.CLUSTER_SIZE", 2, "CPTB.CLUSTER_SIZE", 2, "DATASET.IMBALANCE_TAU", 0.25)
    return train(prompt_cfg(folder, output, trainer, *taken, "OPTIM.MAX_EPOCH", epochs, *options))


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """A run with the defaults, and its folder."""
    output = tmp_path_factory.mktemp("plain")
    return run(folder, output, "CoOpCPTX"), output


def values(trainer):
    return [{k: v for k, v in epoch.items() if k.startswith(("loss", "weight_"))} for epoch in trainer.history]


def test_defaults_are_cptb_bit_for_bit(folder, tmp_path, plain):
    trainer, output = plain
    other = run(folder, tmp_path, "CoOpCPTB")
    assert identical(trained_part(output), trained_part(tmp_path))
    assert values(trainer) == values(other)
    assert {"loss_etf", "loss_cc", "loss_rs", "weight_rs"} <= values(other)[0].keys()


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_prompts_and_the_weights_of_its_terms(folder, tmp_path, plain, option):
    trainer = run(folder, tmp_path, "CoOpCPTX", *OPTIONS[option])
    assert not identical(trained_part(plain[1]), trained_part(tmp_path))
    found, before = trainer.hook.factors, plain[0].hook.factors
    assert {part for part in found if found[part] != before[part]} == CHANGED[option]
    assert all(factor > 0 for factor in found.values())
    assert saved(tmp_path)["loss_weights"] == found


def test_class_weights_are_those_of_the_long_tail(folder, tmp_path):
    trainer = run(folder, tmp_path, "CoOpCPTX", *OPTIONS["power"])
    (regularizer,), counts = trainer.hook.regularizers, trainer.dm.class_counts
    assert len(set(counts)) > 1
    low, high = (len(counts) / n / sum(1 / m for m in counts) for n in (max(counts), min(counts)))
    assert f"(class weights {low:.3g} .. {high:.3g})" in regularizer.describe()[-1]


def test_interrupted_run_goes_on_with_radii_and_schedule(folder, tmp_path, monkeypatch):
    whole = run(folder, tmp_path / "whole", "CoOpCPTX", *ALL, epochs=3)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(4, PromptTrainer.forward_backward, OSError))
        with pytest.raises(OSError):
            run(folder, tmp_path / "cut", "CoOpCPTX", *ALL, epochs=3)
    shutil.copytree(tmp_path / "cut", tmp_path / "forgetful")
    with monkeypatch.context() as patch:
        patch.setattr("cpt_plugin.regularizers.cptx.CPTX.load_state_dict", lambda self, state: None)
        run(folder, tmp_path / "forgetful", "CoOpCPTX", *ALL, "RESUME", tmp_path / "forgetful", epochs=3)
    resumed = run(folder, tmp_path / "cut", "CoOpCPTX", *ALL, "RESUME", tmp_path / "cut", epochs=3)
    assert resumed.hook.state_dict() == whole.hook.state_dict()
    assert whole.hook.state_dict()["regularizers"]["cptx"]["squared_distances"]
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert fingerprint(tmp_path / "forgetful") != fingerprint(tmp_path / "whole")
