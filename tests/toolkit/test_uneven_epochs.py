"""Samplers whose epochs differ in length: schedule, step numbers, curves and resume follow the real length."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cpt_plugin.errors import CheckpointError, DataError
from cpt_plugin.toolkit import embedded as engine
from cpt_plugin.toolkit.embedded.checkpoint import load_checkpoint, save_checkpoint
from cpt_plugin.toolkit.embedded.loader import batches, epoch_batches
from cpt_plugin.toolkit.embedded.resume import ResumeFolder
from tests.toolkit.small import Killed, SmallShapes, SmallTrainer, fingerprint, small_cfg

EPOCHS = 6


@engine.DATASET_REGISTRY.register()
class SmallDomains(SmallShapes):
    """SmallShapes whose training images lie in four domains of 15, 9, 5 and 3 images."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        domains = [0] * 15 + [1] * 9 + [2] * 5 + [3] * 3
        self.replace_train(
            engine.Datum(item.impath, item.label, domain, item.classname)
            for item, domain in zip(self.train_x, domains, strict=True)
        )


class Watched(SmallTrainer):
    """Notes what each step was, and every curve's points."""

    def build_model(self) -> None:
        super().build_model()
        self.seen: list[tuple[int, int, float]] = []
        self.points: dict[str, list[int]] = {}

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        rate = self.get_current_lr()
        summary = super().forward_backward(batch)
        self.seen.append((self.epoch, self.global_step, rate))
        return summary

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        self.points.setdefault(tag, []).append(global_step or 0)


SAMPLERS = {
    "RandomClassSampler": ("DATALOADER.TRAIN_X.BATCH_SIZE", 4, "DATALOADER.TRAIN_X.N_INS", 2),
    "RandomDomainSampler": ("DATALOADER.TRAIN_X.BATCH_SIZE", 2, "DATALOADER.TRAIN_X.N_DOMAIN", 2),
}


def made(root: Any, output: Any, sampler: str, *options: Any, cls: type = Watched, kill_at: int | None = None) -> Any:
    trainer = cls(
        small_cfg(
            root, output, "DATASET.NAME", "SmallDomains", "DATALOADER.TRAIN_X.SAMPLER", sampler,
            "OPTIM.MAX_EPOCH", EPOCHS, "TRAIN.CHECKPOINT_SECONDS", 0, *SAMPLERS[sampler], *options,
        )
    )  # fmt: skip
    trainer.kill_at = kill_at
    return trainer


def counted(loader: Any) -> list[int]:
    return [sum(1 for _ in batches(loader, epoch)) for epoch in range(EPOCHS)]


@pytest.fixture(params=SAMPLERS)
def sampler(request: Any) -> str:
    return request.param


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_counted_before_they_are_read(image_root, tmp_path, sampler, workers):
    loader = made(image_root, tmp_path, sampler, "DATALOADER.NUM_WORKERS", workers).train_loader_x
    expected = [epoch_batches(loader, epoch) for epoch in range(EPOCHS)]
    assert counted(loader) == expected
    assert len(set(expected)) > 1, "the epochs differ"


def test_schedule_and_steps_follow_every_epoch(image_root, tmp_path, sampler):
    trainer = made(image_root, tmp_path, sampler, "TRAIN.CHECKPOINT_SECONDS", 1000)
    lengths = counted(trainer.train_loader_x)
    trainer.train()
    assert [sum(epoch == e for epoch, _, _ in trainer.seen) for e in range(EPOCHS)] == lengths
    rates = [1e-5] + [0.025 * (1 + math.cos(math.pi * k / EPOCHS)) for k in range(EPOCHS - 1)]
    assert [rate for _, _, rate in trainer.seen] == pytest.approx([rates[epoch] for epoch, _, _ in trainer.seen])
    steps = list(range(sum(lengths)))
    assert [step for _, step, _ in trainer.seen] == steps == trainer.points["train/lr"]
    assert trainer.num_steps == sum(lengths)
    assert trainer.sched.last_epoch == EPOCHS


def test_killed_anywhere_and_resumed_gives_the_same_bits(image_root, tmp_path, sampler):
    whole = made(image_root, tmp_path / "whole", sampler, "TRAIN.CHECKPOINT_SECONDS", 1000)
    whole.train()
    lengths = counted(whole.train_loader_x)
    kills = [1, sum(lengths[:3]) + 1, sum(lengths) - 1]
    for number, kill_at in enumerate(kills):
        resume = ("RESUME", str(tmp_path / "cut")) if number else ()
        trainer = made(image_root, tmp_path / "cut", sampler, *resume, kill_at=kill_at)
        with pytest.raises(Killed):
            trainer.train()
        newest = ResumeFolder(tmp_path / "cut").newest_first()[0]
        assert load_checkpoint(newest)["step"] == kill_at
        assert newest.name == f"state-{kill_at:09d}.pth.tar"
    trainer = made(image_root, tmp_path / "cut", sampler, "RESUME", str(tmp_path / "cut"))
    trainer.train()
    assert fingerprint(trainer) == fingerprint(whole)
    assert torch.equal(trainer.model.seen, whole.model.seen)
    assert trainer.history == whole.history


def test_state_of_a_version_that_froze_the_rate_is_refused(image_root, tmp_path, sampler):
    with pytest.raises(Killed):
        made(image_root, tmp_path, sampler, kill_at=4).train()
    for path in ResumeFolder(tmp_path).newest_first():
        state = load_checkpoint(path)
        del state["step"]
        save_checkpoint(state, path)
    with pytest.raises(CheckpointError, match=rf"SAMPLER {sampler} kept the learning rate from following"):
        made(image_root, tmp_path, sampler, "RESUME", str(tmp_path)).train()


def test_an_epoch_without_a_batch_is_refused_before_training(image_root, tmp_path, monkeypatch):
    """Batches of 7 from rounds of 6 images: an epoch of a single round would have no whole batch."""
    trainer = made(image_root, tmp_path, "RandomClassSampler")
    lengths = [12, 12, 3]
    monkeypatch.setattr(trainer.train_loader_x.sampler, "length", lambda epoch: lengths[min(epoch, 2)])
    with pytest.raises(DataError, match=r"epoch 3 would have no batch of 4 images: so few does RandomClassSampler"):
        trainer.train()
    assert trainer.seen == []
