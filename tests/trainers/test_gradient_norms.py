"""TRAIN.GRADIENT_NORMS: norms of the first step of every epoch in the history, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.hook import CPTHook, HookHandle
from cpt_plugin.regularizers import build
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.trainers.problems import gradient_norms, raises_at, trained_part
from trainers._base import PromptTrainer

ON = ("TRAIN.GRADIENT_NORMS", True)
WEIGHTS = {"etf": 0.25, "cc": 0.15, "rs": 0.1}
BALANCED = ("CPTB.CLUSTER_SIZE", 2, "CPTB.RHO_MOMENTUM", 0.5)


def norms(values):
    return {name.removeprefix("grad_"): value for name, value in values.items() if name.startswith("grad_")}


def without_norms(history):
    return [{name: value for name, value in values.items() if not name.startswith("grad_")} for values in history]


def by_hand(monkeypatch):
    """Norms of the gradients of the cross-entropy and of each unweighted term, at the first step of every epoch."""
    found = []
    original = PromptTrainer.forward_backward

    def looked_at(self, batch):
        if self.batch_idx == 0:
            found.append(gradient_norms(self, batch, WEIGHTS))
        return original(self, batch)

    monkeypatch.setattr(PromptTrainer, "forward_backward", looked_at)
    return found


@pytest.mark.parametrize("name", ["CoOp", "MaPLeCPT"])
def test_history_holds_the_norms_of_each_epochs_first_step(folder, tmp_path, monkeypatch, name):
    found = by_hand(monkeypatch)
    trainer = train(prompt_cfg(folder, tmp_path, name, *ON, "OPTIM.MAX_EPOCH", 2))
    assert len(found) == len(trainer.history) == 2
    for values, reference in zip(trainer.history, found, strict=True):
        wanted = {"main": reference["main"]}
        if name.endswith("CPT"):
            wanted |= {part: weight * reference[part] for part, weight in WEIGHTS.items()}
        assert norms(values) == pytest.approx(wanted, rel=1e-4)
    assert len({values["grad_main"] for values in trainer.history}) == 2


def test_balanced_parts_pull_with_their_fraction_from_the_step_on_that_sets_their_weight(folder, tmp_path):
    trainer = train(prompt_cfg(folder, tmp_path, "MaPLeCPTB", *BALANCED, *ON, "OPTIM.MAX_EPOCH", 1))
    first = norms(trainer.history[0])
    fractions = {part: first[part] / first["main"] for part in WEIGHTS}
    assert fractions == pytest.approx({"etf": 0.03, "cc": 0.3, "rs": 0.3}, rel=1e-5)


def test_the_main_loss_is_all_of_the_learners_own_terms_and_none_of_the_regularizers(folder, tmp_path):
    """PromptSRC's terms read the features themselves; its first step is the same with and without CPT."""
    plain = train(prompt_cfg(folder, tmp_path / "plain", "PromptSRC", *ON, "OPTIM.MAX_EPOCH", 1))
    cpt = train(prompt_cfg(folder, tmp_path / "cpt", "PromptSRCCPT", *ON, "OPTIM.MAX_EPOCH", 1))
    assert set(norms(cpt.history[0])) == {"main", *WEIGHTS}
    assert cpt.history[0]["grad_main"] == pytest.approx(plain.history[0]["grad_main"], rel=1e-5)
    alone = train(prompt_cfg(folder, tmp_path / "alone", "IVLP", *ON, "OPTIM.MAX_EPOCH", 1))
    assert plain.history[0]["grad_main"] != pytest.approx(alone.history[0]["grad_main"], rel=1e-3)


@pytest.mark.parametrize("part", ["cpt", "cptb"])
def test_a_hook_attached_from_outside_is_measured_as_the_trainers_own(folder, tmp_path, part):
    options = (*BALANCED, *ON, "OPTIM.MAX_EPOCH", 2)
    own = train(prompt_cfg(folder, tmp_path / "own", f"CoOp{part.upper()}", *options))
    cfg = prompt_cfg(folder, tmp_path / "outside", "CoOp", *options)
    trainer = toolkit.build_trainer(cfg)
    handle = CPTHook(regularizers=build([part], cfg)).attach(trainer)
    trainer.train()
    assert [norms(values) for values in trainer.history] == [norms(values) for values in own.history]
    assert set(norms(own.history[0])) == {"main", *WEIGHTS}
    handle.detach()
    assert not HookHandle.of(trainer).active


@pytest.mark.parametrize("name", ["CoOp", "MaPLeCPTB", "PromptSRCCPT", "CoOpDPCCPT"])
def test_measuring_changes_no_bit_of_the_training(folder, tmp_path, name):
    runs = {}
    for kind, options in (("off", ()), ("on", ON)):
        short = ("OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
        trainer = train(prompt_cfg(folder, tmp_path / kind, name, *BALANCED, *short, *options))
        runs[kind] = trainer, torch.get_rng_state()
    (off, state), (on, other_state) = runs["off"], runs["on"]
    assert identical(trained_part(tmp_path / "off"), trained_part(tmp_path / "on"))
    assert identical(off.optim.state_dict(), on.optim.state_dict())
    assert torch.equal(state, other_state)
    assert off.prompts_hash == on.prompts_hash
    assert off.results == on.results
    assert off.history == without_norms(on.history)
    assert all("grad_main" in values for values in on.history)


def test_a_run_resumed_inside_an_epoch_has_the_same_norms(folder, tmp_path, monkeypatch):
    options = (*ON, "OPTIM.MAX_EPOCH", 2)
    whole = train(prompt_cfg(folder, tmp_path / "whole", "CoOpCPT", *options))
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(1, PromptTrainer.forward_backward, OSError))
        with pytest.raises(OSError):
            train(prompt_cfg(folder, tmp_path / "cut", "CoOpCPT", *options))
    resumed = train(prompt_cfg(folder, tmp_path / "cut", "CoOpCPT", *options, "RESUME", tmp_path / "cut"))
    assert resumed.history == whole.history


def test_a_loss_scale_is_divided_out_and_an_overflow_is_left_out(folder, tmp_path, monkeypatch):
    class Scaler:
        """Stands in for AMP's in the measurement only."""

        def __init__(self, scale):
            self.scale = scale

        def get_scale(self):
            return self.scale

    measure = PromptTrainer._measure_gradients
    found = {}

    def at_scales(self, loss):
        for scale in (1.0, 2.0**16, float("inf")):
            self.gradient_norms = {}
            monkeypatch.setattr(self, "scaler", Scaler(scale))
            measure(self, loss)
            found[scale] = self.gradient_norms
        self.scaler = None

    monkeypatch.setattr(PromptTrainer, "_measure_gradients", at_scales)
    train(prompt_cfg(folder, tmp_path, "CoOp", *ON, "OPTIM.MAX_EPOCH", 1))
    assert found[2.0**16] == pytest.approx(found[1.0], rel=1e-6)
    assert found[float("inf")] == {}
