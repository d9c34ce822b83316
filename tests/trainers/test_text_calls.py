"""How often the text tower runs, and over which classes: once a test, and in DPC what a step needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin import CPTHook, toolkit
from cpt_plugin.encoders import TextEncoder, TextPrompts
from tests.helpers.prompt_runs import prompt_cfg

SHORT = ("OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0, "DATALOADER.TEST.BATCH_SIZE", 3)


def build(folder: Path, output: Path, name: str, *options: Any) -> Any:
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *SHORT, *options))


def watched(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Filled with (with gradient, number of classes) for each time the tower runs."""
    calls: list[tuple[bool, int]] = []
    original = encoder._encode_at_once

    def encode(prompts: TextPrompts) -> torch.Tensor:
        calls.append((torch.is_grad_enabled(), len(prompts.tokens)))
        return original(prompts)

    monkeypatch.setattr(encoder, "_encode_at_once", encode)
    return calls


@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "IVLP", "PromptSRC", "ShallowVL", "CoOpCPT", "CoOpDPC", "MaPLeDPC"])
def test_a_test_run_encodes_the_texts_once(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(folder, tmp_path, name)
    calls, batches = watched(trainer.model.text_encoder, monkeypatch), []
    inference = trainer.model_inference
    monkeypatch.setattr(trainer, "model_inference", lambda image: batches.append(1) or inference(image))
    trainer.test()
    assert len(batches) > 1
    assert calls == [(False, 4)]


@pytest.mark.parametrize("name", ["CoOpDPC", "MaPLeDPC"])
def test_stage_one_is_encoded_before_the_first_step_and_in_none(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(folder, tmp_path, name, "DATASET.NUM_SHOTS", 4)
    calls, before_steps = watched(trainer.stage_one.text_encoder, monkeypatch), []
    step = trainer.forward_backward
    monkeypatch.setattr(trainer, "forward_backward", lambda batch: before_steps.append(len(calls)) or step(batch))
    trainer.train()
    assert calls == [(False, 4)]
    assert len(before_steps) >= 4
    assert set(before_steps) == {1}


def trained_with(
    trainer: Any, classes: list[int], monkeypatch: pytest.MonkeyPatch, last: bool
) -> list[tuple[bool, int]]:
    """What the tower ran over in one step on a batch of these classes."""
    trainer.before_train()
    trainer.close()
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 4 if last else 0, 5
    calls = watched(trainer.model.text_encoder, monkeypatch)
    labels = torch.tensor(classes)
    monkeypatch.setattr(trainer, "parse_batch_train", lambda batch: (torch.randn(len(labels), 3, 16, 16), labels))
    trainer.forward_backward({})
    return calls


@pytest.mark.parametrize("name", ["CoOpDPC", "MaPLeDPC"])
def test_a_step_of_dpc_encodes_the_classes_of_its_batch(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained_with(build(folder, tmp_path, name), [2, 0, 2], monkeypatch, last=False) == [(True, 2)]


def test_all_classes_are_encoded_where_something_reads_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The degrees of collapse at an epoch's end, PromptSRC's own terms, a regularizer, also one of somebody else's."""
    at_end = trained_with(build(folder, tmp_path / "end", "CoOpDPC"), [2, 0], monkeypatch, last=True)
    assert at_end == [(True, 2), (False, 4)]
    for name in ("PromptSRCDPC", "CoOpDPCCPT", "ShallowVLDPCDAPT"):
        assert trained_with(build(folder, tmp_path / name, name), [2, 0], monkeypatch, last=False) == [(True, 4)]
    hooked = build(folder, tmp_path / "hooked", "CoOpDPC")
    handle = CPTHook().attach(hooked)
    assert trained_with(hooked, [2, 0], monkeypatch, last=False) == [(True, 4)]
    handle.detach()
    hooked.batch_idx = 0
    calls = watched(hooked.model.text_encoder, monkeypatch)
    hooked.forward_backward({})
    assert calls == [(True, 2)]


def test_encoding_some_classes_changes_no_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, gradient and what is logged are those of encoding all classes."""
    results = []
    for all_classes in (False, True):
        trainer = build(folder, tmp_path / str(all_classes), "CoOpDPC")
        if all_classes:
            monkeypatch.setattr(type(trainer), "needed_classes", lambda self, label: None)
        trainer.before_train()
        trainer.close()
        trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 4, 5
        batch = next(iter(trainer.train_loader_x))
        summary = trainer.forward_backward({"img": batch["img"][:2], "label": torch.tensor([0, 2])})
        results.append((summary, trainer.model.prompt_learner.parallel.ctx.detach(), trainer.epoch_features.degrees()))
    (some, prompts, degrees), (everything, all_prompts, all_degrees) = results
    assert some == pytest.approx(everything, rel=1e-5)
    assert degrees == pytest.approx(all_degrees, rel=1e-5)
    torch.testing.assert_close(prompts, all_prompts, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("change", ["step", "load", "value"])
def test_changed_prompts_are_encoded_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    trainer = build(folder, tmp_path, "MaPLe")
    trainer.save_model(0, str(tmp_path))
    learner = trainer.model.prompt_learner
    with torch.no_grad():
        learner.compound_prompts_text[0].add_(0.5)
    trainer.test()
    calls = watched(trainer.model.text_encoder, monkeypatch)
    if change == "step":
        trainer.set_model_mode("train")
        trainer.batch_idx, trainer.num_batches, trainer.epoch = 0, 5, 0
        trainer.forward_backward(next(iter(trainer.train_loader_x)))
        calls.clear()
    elif change == "load":
        trainer.load_model(str(tmp_path), epoch=1)
    else:
        learner.compound_prompts_text[0].data[0, 0] += 1e-6
    trainer.test()
    assert calls == [(False, 4)]
    trainer.test()
    assert len(calls) == 1, "and only then"
