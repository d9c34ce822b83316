"""Long-tail losses in our trainers: in the place of the cross-entropy, neutral where they are it, resumed exactly."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin import functional, toolkit
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import fingerprint, first_stage, prompt_cfg, train
from tests.trainers.problems import raises_at, saved, trained_part
from trainers._base import PromptTrainer

TAIL = ("DATASET.IMBALANCE_TAU", 0.25, "DATASET.MAX_PER_CLASS", 8, "OPTIM.MAX_EPOCH", 2)
COUNTS = [8, 5, 3, 2]
NEUTRAL = {
    "la": ("LA.TAU", 0.0), "focal": ("FOCAL.GAMMA", 0.0), "cb": ("CB.BETA", 0.0), "ldam": ("LDAM.MAX_MARGIN", 0.0)
}  # fmt: skip
LOSSES = ("la", "bs", "focal", "cb", "ldam")


def run(folder, output, trainer, *options):
    return train(prompt_cfg(folder, output, trainer, *TAIL, "TRAIN.CHECKPOINT_SECONDS", 1000.0, *options))


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain")
    trainer = run(folder, output, "CoOp")
    assert trainer.dm.class_counts == COUNTS
    return output


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_changes_the_prompts_and_neutral_settings_do_not(folder, tmp_path, plain, name):
    trainer = run(folder, tmp_path / "on", f"CoOp{name.upper()}")
    assert not identical(trained_part(tmp_path / "on"), trained_part(plain))
    assert {"loss", f"loss_{name}"} <= trainer.losses.meters.keys()
    if name in NEUTRAL:
        trainer = run(folder, tmp_path / "off", f"CoOp{name.upper()}", *NEUTRAL[name])
        assert identical(trained_part(tmp_path / "off"), trained_part(plain))
        assert f"loss_{name}" not in trainer.losses.meters


@pytest.mark.parametrize("name", LOSSES)
def test_on_balanced_data_only_the_parts_that_do_not_look_at_counts_change_the_loss(folder, tmp_path, name):
    balanced = ("DATASET.IMBALANCE_TAU", 1.0, "OPTIM.MAX_EPOCH", 1)
    own = run(folder, tmp_path / name, f"CoOp{name.upper()}", *balanced)
    base = run(folder, tmp_path / "plain", "CoOp", *balanced)
    same = name in ("la", "bs", "cb")
    assert (own.history[0]["loss"] == pytest.approx(base.history[0]["loss"], rel=1e-5)) is same


@pytest.mark.parametrize("learner", ["CoOp", "CoCoOp", "IVLP", "PromptSRC"])
def test_the_loss_is_that_of_the_function_and_other_terms_stay(folder, tmp_path, learner):
    """PromptSRC adds its own terms to the long-tail loss as it does to the cross-entropy."""
    toolkit.set_random_seed(1)
    trainer = toolkit.build_trainer(prompt_cfg(folder, tmp_path, f"{learner}LDAM", *TAIL, "LDAM.MAX_MARGIN", 0.2))
    image = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 3, 3, 1, 2, 0])
    prediction = trainer.model(image, label, with_features=True)
    parts = trainer.loss_parts(prediction, image, label)
    counts = torch.tensor(COUNTS)
    expected = functional.ldam(prediction.logits.float(), label, counts, 0.2, trainer.clip.logit_scale)
    assert torch.equal(parts.pop("ldam"), expected)
    cosines = prediction.logits / trainer.clip.logit_scale
    margins = 0.2 * counts.double() ** -0.25 / 2**-0.25
    lowered = cosines.double() - F.one_hot(label, 4) * margins
    by_hand = F.cross_entropy(trainer.clip.logit_scale * lowered, label)
    assert expected.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert parts.keys() == ({"scl_text", "scl_image", "scl_logits"} if learner == "PromptSRC" else set())


def test_after_dpc_the_loss_is_that_of_the_first_stage(folder, tmp_path, caplog):
    """From the same prompts, the second stage is the plain one bit for bit: it keeps its own loss."""
    stage = ("TRAINER.DPC.STAGE_ONE", first_stage(folder, "CoOp"))
    trainers = [run(folder, tmp_path / name, name, *stage) for name in ("CoOpDPC", "CoOpDPCLA")]
    assert identical(trained_part(tmp_path / "CoOpDPC"), trained_part(tmp_path / "CoOpDPCLA"))
    assert [trainer.first_stage for trainer in trainers] == ["CoOp", "CoOpLA"]
    assert "loss_la" not in trainers[1].losses.meters
    assert trainers[1].reads("LA.TAU")
    assert not trainers[0].reads("LA.TAU")


def test_interrupted_run_ends_with_the_same_bits(folder, tmp_path, monkeypatch):
    """Deferred weights depend on the epoch alone."""
    options = ("LDAM.DRW_START", 0.5, "TRAIN.CHECKPOINT_SECONDS", 0.0)
    run(folder, tmp_path / "whole", "CoOpLDAM", *options)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(3, PromptTrainer.forward_backward, OSError))
        with pytest.raises(OSError):
            run(folder, tmp_path / "cut", "CoOpLDAM", *options)
    run(folder, tmp_path / "cut", "CoOpLDAM", *options, "RESUME", tmp_path / "cut")
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    without = saved(tmp_path / "whole")["history"]
    run(folder, tmp_path / "never", "CoOpLDAM")
    assert saved(tmp_path / "never")["history"][0]["loss"] == without[0]["loss"]
    assert saved(tmp_path / "never")["history"][1]["loss"] != without[1]["loss"]


@pytest.mark.parametrize("name", ["ClassBalancedSampler", "SquareRootSampler"])
def test_samplers_for_long_tails_train(folder, tmp_path, plain, name):
    run(folder, tmp_path, "CoOp", "DATALOADER.TRAIN_X.SAMPLER", name)
    assert not identical(trained_part(tmp_path), trained_part(plain))
