"""Controls: mixed text features, post-hoc adjustment, early stopping; each neutral where it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.errors import ConfigError
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import fingerprint, prompt_cfg, train
from tests.trainers.problems import raises_at, saved, trained_part
from trainers import controls, trainer_name
from trainers._base import PromptTrainer

TAIL = ("DATASET.IMBALANCE_TAU", 0.25, "DATASET.MAX_PER_CLASS", 8, "OPTIM.MAX_EPOCH", 2)
LEARNERS = ("CoOp", "CoCoOp", "MaPLe", "CoOpDPC")


def build(folder, output, trainer, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, trainer, *TAIL, *options))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    outputs = {}
    for name in LEARNERS:
        outputs[name] = tmp_path_factory.mktemp(name)
        train(prompt_cfg(folder, outputs[name], name, *TAIL, "TRAIN.CHECKPOINT_SECONDS", 1000.0))
    return outputs


@pytest.fixture(scope="module")
def image():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def logits(folder, output, trainer, image, *options):
    """Of the prompts in a folder, as that trainer evaluates them."""
    made = build(folder, output.parent / "unused", trainer, *options)
    made.load_model(str(output), epoch=2)
    made.set_model_mode("eval")
    with torch.no_grad():
        return made.model_inference(image), made


@pytest.mark.parametrize("name", LEARNERS)
def test_mixed_text_features(folder, trained, image, name):
    plain, trainer = logits(folder, trained[name], name, image)
    mixed, _ = logits(folder, trained[name], f"{name}MIX", image, "MIX.FRACTION", 0.25)
    with torch.no_grad():
        f = F.normalize(trainer.model.image_encoder(image, trainer.model.prompt_learner.image_prompts()), dim=-1)
        tuned = trainer.model.text_features(f)
        frozen = F.normalize(trainer.frozen_text_features(), dim=-1)
        text = F.normalize(0.75 * tuned + 0.25 * frozen, dim=-1)
        expected = trainer.clip.logit_scale * torch.einsum("bd,bkd->bk", f, text.expand(len(f), -1, -1))
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(mixed, plain, atol=1e-2)
    none, _ = logits(folder, trained[name], f"{name}MIX", image, "MIX.FRACTION", 0.0)
    assert torch.equal(none, plain)


def test_only_zero_shot_is_zero_shot(folder, trained, image):
    mixed, _ = logits(folder, trained["CoOp"], "CoOpMIX", image, "MIX.FRACTION", 1.0)
    zeroshot = build(folder, trained["CoOp"], "ZeroshotCLIP")
    torch.testing.assert_close(mixed, zeroshot.model_inference(image), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["CoOp", "CoOpDPC"])
def test_posthoc_adjustment_of_the_trained_classes(folder, trained, image, name):
    plain, _ = logits(folder, trained[name], name, image)
    adjusted, trainer = logits(folder, trained[name], f"{name}POSTHOC", image, "POSTHOC.TAU", 0.5)
    prior = torch.tensor([8, 5, 3, 2]) / 18
    torch.testing.assert_close(adjusted, plain - 0.5 * prior.log(), rtol=1e-5, atol=1e-4)
    none, _ = logits(folder, trained[name], f"{name}POSTHOC", image, "POSTHOC.TAU", 0.0)
    assert torch.equal(none, plain)
    trainer.trained = replace(trainer.trained, class_names=("other", "classes", "were", "trained"))
    with torch.no_grad():
        assert torch.equal(trainer.model_inference(image), plain)


@pytest.mark.parametrize("part", ["mix", "posthoc"])
def test_controls_of_evaluation_train_nothing(folder, tmp_path, part):
    with pytest.raises(ConfigError, match=rf"{part} trains nothing: train CoOpCPT, then evaluate.*--eval-only"):
        build(folder, tmp_path, trainer_name("coop", ("cpt", part))).train()


def test_the_best_epoch_on_validation_images_is_used(folder, tmp_path, monkeypatch):
    """Three epochs whose validation results are 10, 30 and 30: the second, and the last is the plain run's last."""
    results = iter([10.0, 30.0, 30.0])
    original = PromptTrainer.test

    def fake(self, split=None):
        found = original(self, split)
        return next(results) if split == "val" else found

    options = ("OPTIM.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_SECONDS", 1000.0)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "test", fake)
        trainer = train(
            prompt_cfg(folder, tmp_path / "stop", "CoOpSTOP", *TAIL, "TEST.FINAL_MODEL", "best_val", *options)
        )
    train(prompt_cfg(folder, tmp_path / "plain", "CoOp", *TAIL, *options, "TRAIN.CHECKPOINT_FREQ", 1))
    best = toolkit.load_checkpoint(str(tmp_path / "stop" / "prompt_learner" / "model-best.pth.tar"))
    second = toolkit.load_checkpoint(str(tmp_path / "plain" / "prompt_learner" / "model.pth.tar-2"))
    assert (best["epoch"], best["val_result"]) == (2, 30.0)
    assert identical(best["state_dict"], second["state_dict"])
    assert identical(dict(trainer.model.prompt_learner.state_dict()), second["state_dict"])
    last = toolkit.load_checkpoint(str(tmp_path / "plain" / "prompt_learner" / "model.pth.tar-3"))
    assert identical(trained_part(tmp_path / "stop")["state_dict"], last["state_dict"])


def test_stopping_needs_its_key(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"stop needs TEST\.FINAL_MODEL best_val, not last_step"):
        build(folder, tmp_path, "CoOpSTOP")


def test_interrupted_run_chooses_the_same_epoch(folder, tmp_path, monkeypatch):
    options = (*TAIL, "TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 3, "OPTIM.LR", 0.2)
    train(prompt_cfg(folder, tmp_path / "whole", "CoOpSTOP", *options))
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "forward_backward", raises_at(3, PromptTrainer.forward_backward, OSError))
        with pytest.raises(OSError):
            train(prompt_cfg(folder, tmp_path / "cut", "CoOpSTOP", *options))
    train(prompt_cfg(folder, tmp_path / "cut", "CoOpSTOP", *options, "RESUME", tmp_path / "cut"))
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    best = [
        toolkit.load_checkpoint(str(tmp_path / name / "prompt_learner" / "model-best.pth.tar"))
        for name in ("whole", "cut")
    ]
    assert best[0]["epoch"] == best[1]["epoch"]
    assert identical(best[0]["state_dict"], best[1]["state_dict"])
    assert saved(tmp_path / "whole")["history"] == saved(tmp_path / "cut")["history"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mix", {"FRACTION": 1.5}, "MIX.FRACTION must be a finite number >= 0 and <= 1"),
        ("posthoc", {"TAU": float("nan")}, "POSTHOC.TAU must be a finite number"),
    ],
)
def test_settings_out_of_range(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        controls.build([name], {name.upper(): settings})
