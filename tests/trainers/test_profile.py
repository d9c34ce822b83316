"""The profile line of every training epoch, under a clock that advances a second whenever it is read.

So the times count the moments at which something begins or ends, and are the same in every run.
"""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.profiling import KINDS, HostClock, Profile
from tests.helpers.prompt_runs import fingerprint, prompt_cfg, train
from tests.trainers.problems import raises_at
from trainers import _profiled
from trainers._profiled import TimedLoader

LINE = re.compile(r"profile of epoch (\d+)/(\d+): (\d+\.\d) s in (\d+) steps: (.*)")
QUIET = ("TRAIN.CHECKPOINT_SECONDS", 1000.0)
GRADIENTS = {"backward", "update", "other"}


class Counting(HostClock):
    def __init__(self):
        self.moments = itertools.count()

    def now(self):
        return float(next(self.moments))


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *QUIET, *options))


def lines(caplog):
    """(epoch, epochs, seconds, steps, shares) of all profile lines."""
    found = [match for record in caplog.records if (match := LINE.fullmatch(record.getMessage()))]
    numbers = [(int(m[1]), int(m[2]), float(m[3]), int(m[4])) for m in found]
    shares = [{k: float(v) for k, v in re.findall(r"(\w+) (\d+\.\d) %", m[5])} for m in found]
    return [(*number, share) for number, share in zip(numbers, shares, strict=True)]


@pytest.fixture(autouse=True)
def _counted_and_logged(caplog, monkeypatch):
    monkeypatch.setattr(_profiled, "HostClock", Counting)
    caplog.set_level("INFO", logger="cpt_plugin")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("CoOp", {"data", "image", "text"}),
        ("MaPLeCPT", {"data", "image", "text", "regularizer"}),
        ("CoCoOp", {"data", "image", "text"}),
        ("PromptSRC", {"data", "image", "text", "regularizer"}),
        ("CoOpDPC", {"data", "image", "text"}),
        ("MaPLeDPCCPT", {"data", "image", "text", "regularizer"}),
    ],
)
def test_every_epoch_has_its_line(folder, tmp_path, caplog, name, kinds):
    trainer = build(folder, tmp_path, name, "OPTIM.MAX_EPOCH", 2)
    caplog.clear()
    trainer.train()
    found = lines(caplog)
    assert [line[:2] for line in found] == [(1, 2), (2, 2)]
    for _, _, seconds, steps, shares in found:
        assert steps == trainer.num_batches
        assert seconds > 0
        assert shares.keys() == kinds | GRADIENTS
        assert sum(round(10 * share) for share in shares.values()) == 1000
        assert all(share > 0 for share in shares.values())
        assert list(shares) == [kind for kind in (*KINDS, "other") if kind in shares]


def test_each_step_spends_its_time_where_it_should(folder, tmp_path):
    """CoOp's step opens data twice (loader, batch), image, text, update, and backward inside it; loader ends once."""
    trainer = build(folder, tmp_path, "CoOp", "OPTIM.MAX_EPOCH", 1)
    trainer.train()
    n = trainer.num_batches
    assert trainer.profile.seconds == {
        "data": 2 * n + 2, "image": n, "text": n, "update": 2 * n, "backward": n, "other": 5 * n + 3,
    }  # fmt: skip


def test_evaluation_between_epochs_is_not_in_the_profile(folder, tmp_path, caplog):
    trainer = build(folder, tmp_path / "a", "CoOp", "TEST.FINAL_MODEL", "best_val")
    trainer.train()
    plain = build(folder, tmp_path / "b", "CoOp", "TEST.NO_TEST", True)
    plain.train()
    assert lines(caplog)[:3] == lines(caplog)[3:]


def test_a_resumed_epoch_is_profiled_from_where_it_goes_on(folder, tmp_path, caplog, monkeypatch):
    trainer = build(folder, tmp_path, "CoOp", "TRAIN.CHECKPOINT_SECONDS", 0)
    loader, hooks = trainer.train_loader_x, len(trainer.model.text_encoder._forward_hooks)
    stop = raises_at(4, type(trainer).forward_backward, KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(type(trainer), "forward_backward", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    assert trainer.train_loader_x is loader
    assert len(trainer.model.text_encoder._forward_hooks) == hooks
    steps = trainer.num_batches
    epoch, done = divmod(4, steps)
    caplog.clear()
    build(folder, tmp_path, "CoOp", "TRAIN.CHECKPOINT_SECONDS", 0, "RESUME", tmp_path).train()
    assert [line[3] for line in lines(caplog)] == [steps - done] + [steps] * (2 - epoch)


def test_regularizer_of_weight_zero_is_not_in_the_line(folder, tmp_path, caplog):
    weights = ("CPT.WEIGHT_ETF", 0.0, "CPT.WEIGHT_CC", 0.0, "CPT.WEIGHT_RS", 0.0)
    build(folder, tmp_path, "CoOpCPT", "OPTIM.MAX_EPOCH", 1, *weights).train()
    ((*_, shares),) = lines(caplog)
    assert "regularizer" not in shares


def test_zero_shot_trains_nothing_and_has_no_line(folder, tmp_path, caplog):
    train(prompt_cfg(folder, tmp_path, "ZeroshotCLIP"))
    assert lines(caplog) == []


def test_gradients_under_a_loss_scale_count_as_others_do(folder, tmp_path):
    trainer = build(folder, tmp_path, "CoOp", "OPTIM.MAX_EPOCH", 1)
    trainer.scaler = torch.amp.GradScaler("cpu")
    trainer.train()
    n = trainer.num_batches
    assert (trainer.profile.seconds["update"], trainer.profile.seconds["backward"]) == (2 * n, n)


def test_the_profile_changes_no_bit(folder, tmp_path, monkeypatch):
    build(folder, tmp_path / "a", "MaPLeCPT").train()
    trainer = build(folder, tmp_path / "b", "MaPLeCPT")
    unprofiled = next(cls for cls in type(trainer).__mro__ if cls.__name__ == "TrainerX")
    monkeypatch.setattr(type(trainer), "run_epoch", unprofiled.run_epoch)
    trainer.train()
    assert trainer.profile.seconds == {}
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_timed_loader_gives_the_same_batches_and_attributes():
    loader = torch.utils.data.DataLoader(range(10), batch_size=3)
    timed = TimedLoader(loader, Profile())
    assert len(timed) == 4
    assert timed.dataset == range(10)
    assert [batch.tolist() for batch in timed] == [batch.tolist() for batch in loader]
    assert timed.given == 4
