"""Half precision, on the CPU by stand-ins: the frozen features' path, and steps under a loss scale."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.errors import TrainingError
from cpt_plugin.functional import rotation_stabilization
from tests.helpers.prompt_runs import prompt_cfg
from tests.trainers import problems
from trainers import _base
from trainers._base import PromptTrainer

WORDS = ("TRAINER.COOP.CTX_INIT", "a photo of a", "TRAINER.COOP.N_CTX", 4)
WORDS += ("TRAINER.MAPLE.CTX_INIT", "a photo of a", "TRAINER.MAPLE.PROMPT_DEPTH", 1)


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, "OPTIM.MAX_EPOCH", 2, *options))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["CoOp", "MaPLe"])
def test_rotation_term_is_exactly_0_at_the_template(folder, tmp_path, name, autocast):
    trainer = build(folder, tmp_path, name, *WORDS)
    trainer.precision = dataclasses.replace(trainer.precision, autocast=autocast)
    with trainer.precision.context("cpu"):
        text = trainer.model.text_encoder(trainer.model.prompt_learner.text_prompts())
    assert text.dtype == (autocast or torch.float32)
    frozen = trainer.frozen_text_features()
    assert frozen.dtype == torch.float32
    assert rotation_stabilization(text.float(), frozen).item() == 0.0


# -- loss scale --------------------------------------------------------------------------------------------------


def scaled(folder, output, *options, overflow=()):
    """A CoOp run under a loss scale, whose gradient overflows in the given steps."""
    trainer = build(folder, output, "CoOp", *options)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def poison(gradient):
        step = trainer.epoch * trainer.num_batches + trainer.batch_idx
        return gradient * float("inf") if step in overflow else gradient

    trainer.model.prompt_learner.ctx.register_hook(poison)
    return trainer


def test_skipped_steps_are_counted_and_said_at_the_end(folder, tmp_path, caplog):
    trainer = scaled(folder, tmp_path, overflow=(1, 5))
    trainer.train()
    assert trainer.scaler.get_scale() == 2.0
    assert "2 of 8 steps were skipped: a gradient was not finite under the loss scale" in caplog.text
    assert torch.isfinite(trainer.model.prompt_learner.ctx).all()


def test_without_skipped_steps_nothing_is_said(folder, tmp_path, caplog):
    trainer = scaled(folder, tmp_path)
    trainer.train()
    assert trainer.skipped_steps == 0
    assert "skipped" not in caplog.text


def test_count_survives_a_resume(folder, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        stopped = problems.raises_at(4, PromptTrainer.forward_backward, KeyboardInterrupt)
        patch.setattr(PromptTrainer, "forward_backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            scaled(folder, tmp_path, overflow=(1, 5)).train()
    scaled(folder, tmp_path, "RESUME", tmp_path, overflow=(1, 5)).train()
    assert "2 of 8 steps were skipped" in caplog.text


def test_loss_that_is_not_finite_stops_before_the_update(folder, tmp_path, monkeypatch):
    trainer = scaled(folder, tmp_path)
    before = trainer.model.prompt_learner.ctx.clone()
    original = torch.nn.functional.cross_entropy
    monkeypatch.setattr(_base.F, "cross_entropy", lambda *args: original(*args) * float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan"):
        trainer.train()
    assert torch.equal(trainer.model.prompt_learner.ctx, before)
