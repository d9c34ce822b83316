"""Resume: bit-identical from any step, only on request, only for the same run, never from damaged files."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit import embedded as engine
from cpt_plugin.toolkit.embedded.resume import KEEP, ResumeFolder
from tests.toolkit.small import Killed, SmallTrainer, fingerprint, small_cfg

STEPS = 15


def start(root, output, *options, cls=SmallTrainer, kill_at=None):
    trainer = cls(small_cfg(root, output, "TRAIN.CHECKPOINT_SECONDS", 0, *options))
    trainer.kill_at = kill_at
    return trainer


def run(trainer):
    """Trains; returns whether the end was reached."""
    try:
        trainer.train()
    except Killed:
        return False
    return True


def killed_and_resumed(root, output, *options, kills, cls=SmallTrainer):
    for number, kill_at in enumerate(kills):
        resume = ("RESUME", str(output)) if number else ()
        assert not run(start(root, output, *options, *resume, cls=cls, kill_at=kill_at))
    trainer = start(root, output, *options, "RESUME", str(output), cls=cls)
    assert run(trainer)
    return trainer


@pytest.fixture(scope="module")
def whole(image_root, tmp_path_factory):
    trainer = start(image_root, tmp_path_factory.mktemp("whole"))
    assert run(trainer)
    return trainer


@pytest.mark.parametrize("kill_at", range(1, STEPS))
def test_killed_at_any_step_gives_the_same_bits_and_meters(image_root, tmp_path, whole, kill_at):
    trainer = killed_and_resumed(image_root, tmp_path, kills=[kill_at])
    assert fingerprint(trainer) == fingerprint(whole)
    assert str(trainer.losses) == str(whole.losses)
    assert trainer.results == whole.results
    assert torch.equal(trainer.model.seen, whole.model.seen)


def test_killed_several_times_with_other_worker_numbers(image_root, tmp_path, whole):
    assert not run(start(image_root, tmp_path, kill_at=3))
    options = ("RESUME", str(tmp_path), "DATALOADER.NUM_WORKERS")
    assert not run(start(image_root, tmp_path, *options, 1, kill_at=6))
    trainer = start(image_root, tmp_path, *options, 2)
    assert run(trainer)
    assert fingerprint(trainer) == fingerprint(whole)


def test_killed_with_epoch_end_states_only(image_root, tmp_path, whole):
    slow = ("TRAIN.CHECKPOINT_SECONDS", 1000)
    trainer = killed_and_resumed(image_root, tmp_path, *slow, kills=[7, 13])
    assert fingerprint(trainer) == fingerprint(whole)


def test_best_result_survives(image_root, tmp_path, tmp_path_factory):
    options = ("TEST.FINAL_MODEL", "best_val")
    reference = start(image_root, tmp_path_factory.mktemp("best"), *options)
    assert run(reference)
    trainer = killed_and_resumed(image_root, tmp_path, *options, kills=[4, 8, 12])
    assert trainer.best_result == reference.best_result
    assert fingerprint(trainer) == fingerprint(reference)


def test_negative_control_without_reseeding_the_bits_differ(image_root, tmp_path):
    class Naive(SmallTrainer):
        """Draws dropout from a stream that starts at the seed and is not restored."""

        def reseed(self, stream, *counters):
            if stream == "model":
                super().reseed(stream, *counters)

        def before_train(self):
            super().before_train()
            engine.set_random_seed(self.cfg.SEED)

    once = start(image_root, tmp_path / "once", cls=Naive)
    assert run(once)
    again = killed_and_resumed(image_root, tmp_path / "again", kills=[7], cls=Naive)
    assert fingerprint(again) != fingerprint(once)


def test_trainer_that_draws_from_one_long_stream_goes_on_in_it(image_root, tmp_path):
    class OneStream(SmallTrainer):
        """Never reseeds, as a trainer written for another engine would not."""

        def reseed(self, stream, *counters):
            if stream == "model":
                super().reseed(stream, *counters)

    once = start(image_root, tmp_path / "once", cls=OneStream)
    assert run(once)
    torch.rand(9)
    again = killed_and_resumed(image_root, tmp_path / "again", kills=[7, 12], cls=OneStream)
    assert fingerprint(again) == fingerprint(once)


def test_draws_before_an_epoch_are_repeated_inside_it(image_root, tmp_path):
    class Noisy(SmallTrainer):
        def before_epoch(self):
            self.noise = 0.1 * torch.randn(())

        def detect_anomaly(self, loss):
            super().detect_anomaly(loss)
            self.model.head.bias.data += self.noise

    once = start(image_root, tmp_path / "once", cls=Noisy)
    assert run(once)
    again = killed_and_resumed(image_root, tmp_path / "again", kills=[7, 13], cls=Noisy)
    assert fingerprint(again) == fingerprint(once)


def test_log_says_where_it_resumed(image_root, tmp_path, caplog):
    with caplog.at_level("INFO", logger="cpt_plugin"):
        killed_and_resumed(image_root, tmp_path, kills=[7])
    assert "state-000000007.pth.tar (epoch 1, batch 2)" in caplog.text


def test_nothing_is_resumed_without_being_asked(image_root, tmp_path, whole):
    assert not run(start(image_root, tmp_path, kill_at=7))
    with pytest.raises(CheckpointError, match="interrupted run"):
        start(image_root, tmp_path).train()
    assert len(ResumeFolder(tmp_path).newest_first()) == KEEP
    fresh = start(image_root, tmp_path / "other")
    assert run(fresh)
    assert fingerprint(fresh) == fingerprint(whole)


def test_asked_to_resume_nothing_it_does_not_start_over(image_root, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        start(image_root, tmp_path, "RESUME", str(tmp_path)).train()


def test_finished_run_leaves_no_states_and_is_only_tested_again(image_root, tmp_path, whole):
    first = start(image_root, tmp_path)
    assert run(first)
    assert not ResumeFolder(tmp_path).path.exists()
    again = start(image_root, tmp_path, "RESUME", str(tmp_path), kill_at=0)
    assert run(again)
    assert again.results == first.results == whole.results
    for name, value in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_two_states_are_kept_and_the_damaged_one_is_passed_over(image_root, tmp_path, whole, caplog):
    assert not run(start(image_root, tmp_path, kill_at=8))
    newest, older = ResumeFolder(tmp_path).newest_first()
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    trainer = start(image_root, tmp_path, "RESUME", str(tmp_path))
    with caplog.at_level("INFO", logger="cpt_plugin"):
        assert run(trainer)
    assert f"Resumed from {older}" in caplog.text
    assert fingerprint(trainer) == fingerprint(whole)


def test_only_damaged_states_stop_the_run(image_root, tmp_path):
    assert not run(start(image_root, tmp_path, kill_at=8))
    for path in ResumeFolder(tmp_path).newest_first():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        start(image_root, tmp_path, "RESUME", str(tmp_path)).train()


def test_states_are_ordered_by_number(tmp_path):
    folder = ResumeFolder(tmp_path)
    for step in (5, 10**9 - 1, 10**9):
        folder.save(step, {"step": step})
    (folder.path / "state-x.pth.tar").write_bytes(b"")
    assert [p.name for p in folder.newest_first()] == ["state-1000000000.pth.tar", "state-999999999.pth.tar"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("OPTIM.LR", 0.5), r"OPTIM\.LR: 0\.05 != 0\.5"),
        (("SEED", 2), r"SEED: 1 != 2"),
        (("DATASET.SUBSAMPLE_CLASSES", "base"), r"SUBSAMPLE_CLASSES.*split hash.*class names"),
    ],
)
def test_other_run_is_refused_by_name(image_root, tmp_path, options, part):
    assert not run(start(image_root, tmp_path, kill_at=8))
    with pytest.raises(CheckpointError, match=part):
        start(image_root, tmp_path, *options, "RESUME", str(tmp_path)).train()


def test_changed_images_are_refused(image_root, tmp_path, monkeypatch):
    assert not run(start(image_root, tmp_path, kill_at=8))
    trainer = start(image_root, tmp_path, "RESUME", str(tmp_path))
    monkeypatch.setattr(trainer.dm, "split_hash", "0" * 64)
    with pytest.raises(CheckpointError, match="split hash"):
        trainer.train()


def test_options_that_change_no_result_may_change(image_root, tmp_path, whole):
    assert not run(start(image_root, tmp_path, kill_at=8))
    trainer = start(image_root, tmp_path, "RESUME", str(tmp_path), "TRAIN.PRINT_FREQ", 1, "VERBOSE", False)
    assert run(trainer)
    assert fingerprint(trainer) == fingerprint(whole)


class WithExtra(SmallTrainer):
    digest = "a"

    def checkpoint_extra(self):
        return {"cluster_hash": self.digest}


def test_derived_state_is_compared(image_root, tmp_path):
    assert not run(start(image_root, tmp_path, cls=WithExtra, kill_at=8))
    trainer = start(image_root, tmp_path, "RESUME", str(tmp_path), cls=WithExtra)
    trainer.digest = "b"
    with pytest.raises(CheckpointError, match=r"cluster_hash \(saved 'a', now 'b'\)"):
        trainer.train()


class WithAverage(SmallTrainer):
    """Keeps a running average outside of the registered model, as prompt aggregation does."""

    average = 0.0

    def forward_backward(self, batch):
        summary = super().forward_backward(batch)
        self.average = 0.5 * self.average + summary["loss"]
        return summary

    def resume_extra(self):
        return {**super().resume_extra(), "average": self.average}

    def load_resume_extra(self, saved):
        super().load_resume_extra(saved)
        self.average = saved["average"]


def test_own_state_of_a_trainer_is_restored(image_root, tmp_path):
    reference = start(image_root, tmp_path / "a", cls=WithAverage)
    assert run(reference)
    trainer = killed_and_resumed(image_root, tmp_path / "b", kills=[6, 11], cls=WithAverage)
    assert trainer.average == reference.average != 0


def test_gradient_scaler_is_restored(image_root, tmp_path):
    class Scaled(SmallTrainer):
        def build_model(self):
            super().build_model()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

        def model_backward_and_update(self, loss, names=None):
            self.optim.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()

    reference = start(image_root, tmp_path / "a", cls=Scaled)
    assert run(reference)
    trainer = killed_and_resumed(image_root, tmp_path / "b", kills=[7], cls=Scaled)
    assert trainer.scaler.get_scale() == reference.scaler.get_scale() > 8.0
    assert fingerprint(trainer) == fingerprint(reference)


def test_elapsed_time_goes_on(image_root, tmp_path):
    trainer = start(image_root, tmp_path, kill_at=8)
    trainer.elapsed = lambda: 1000.0
    assert not run(trainer)
    resumed = start(image_root, tmp_path, "RESUME", str(tmp_path))
    assert run(resumed)
    assert resumed.elapsed() > 1000


# -- finished work is never written over -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("TEST.FINAL_MODEL", "best_val"), ("TRAIN.CHECKPOINT_FREQ", 1)])
def test_finished_run_is_not_trained_over(image_root, tmp_path, options):
    assert run(start(image_root, tmp_path, *options))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.pth.tar*")}
    with pytest.raises(CheckpointError, match=r"holds this run, finished.*--resume.*another --output-dir"):
        start(image_root, tmp_path, *options).train()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pth.tar*")} == files


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("OPTIM.LR", 0.5), r"OPTIM\.LR: 0\.05 != 0\.5"),
        (("OPTIM.MAX_EPOCH", 5), r"OPTIM\.MAX_EPOCH: 3 != 5"),
        (("DATASET.SUBSAMPLE_CLASSES", "base"), r"SUBSAMPLE_CLASSES.*split hash.*class names"),
    ],
)
def test_another_run_is_not_trained_over(image_root, tmp_path, options, part):
    assert run(start(image_root, tmp_path))
    with pytest.raises(CheckpointError, match=rf"write over the models in {tmp_path}.*{part}"):
        start(image_root, tmp_path, *options).train()


def test_best_model_of_another_run_is_not_trained_over(image_root, tmp_path):
    options = ("TEST.FINAL_MODEL", "best_val")
    assert run(start(image_root, tmp_path, *options))
    (tmp_path / "net" / "model.pth.tar-3").unlink()
    with pytest.raises(CheckpointError, match=r"model-best\.pth\.tar.*OPTIM\.LR"):
        start(image_root, tmp_path, *options, "OPTIM.LR", 0.5).train()


def test_unfinished_models_of_the_same_run_without_states_may_be_replaced(image_root, tmp_path, whole):
    """What a kill between the first models and the first state leaves: training again gives the same ones."""
    options = ("TRAIN.CHECKPOINT_FREQ", 1, "TEST.FINAL_MODEL", "best_val")
    assert not run(start(image_root, tmp_path, *options, kill_at=12))
    ResumeFolder(tmp_path).remove()
    trainer = start(image_root, tmp_path, *options)
    assert run(trainer)
    assert trainer.start_epoch == 0
