"""Lifecycle, log lines, checkpoints, refusals and reproducibility of the trainers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch

from cpt_plugin.errors import CheckpointError, ConfigError, DataError, TrainingError
from cpt_plugin.toolkit import embedded as engine
from tests.toolkit.small import SmallTrainer, fingerprint, small_cfg


def train(root, output, *options, cls=SmallTrainer):
    trainer = cls(small_cfg(root, output, *options))
    handle = engine.setup_logger(output)
    try:
        trainer.train()
    finally:
        handle.close()
    return trainer


class Recorder(SmallTrainer):
    def __init__(self, cfg):
        self.calls = []
        super().__init__(cfg)


def _recorded(name):
    def method(self, *args, **kwargs):
        self.calls.append(name)
        return getattr(super(Recorder, self), name)(*args, **kwargs)

    return method


STEPS = ["check_cfg", "build_data_loader", "build_model", "before_train", "before_epoch", "run_epoch"]
STEPS += [
    "forward_backward",
    "update_lr",
    "after_epoch",
    "save_model",
    "after_train",
    "test",
    "model_inference",
]
for _name in STEPS:
    setattr(Recorder, _name, _recorded(_name))


def test_lifecycle_is_dassls(image_root, tmp_path):
    trainer = train(image_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 2, cls=Recorder)
    step = ["forward_backward"] * 5 + ["update_lr"]
    assert trainer.calls == [
        "check_cfg", "build_data_loader", "build_model", "before_train",
        "before_epoch", "run_epoch", *step, "after_epoch",
        "before_epoch", "run_epoch", *step, "after_epoch", "save_model",
        "after_train", "test", "model_inference",
    ]  # fmt: skip


def test_best_model_is_chosen_on_the_validation_set_and_deployed(image_root, tmp_path):
    options = ("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 4)

    class Scripted(SmallTrainer):
        """Validation results of 30, 70, 50 and 70 %: the second epoch is the best, a tie changes nothing."""

        def test(self, split=None):
            real = super().test(split)
            return [30.0, 70.0, 50.0, 70.0][self.epoch] if split == "val" else real

        def after_epoch(self):
            super().after_epoch()
            if self.epoch == 1:
                self.second = fingerprint(self)[:100]

    trainer = train(image_root, tmp_path / "run", *options, cls=Scripted)
    best = engine.load_checkpoint(tmp_path / "run" / "net" / "model-best.pth.tar")
    assert (best["epoch"], best["val_result"]) == (2, 70.0)
    assert fingerprint(trainer)[:100] == trainer.second
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Deploy the model with the best val performance" in log
    assert log.count("Evaluate on the *val* set") == 4


TRAIN_LINE = re.compile(
    r"^epoch \[(\d+)/3\] batch \[(\d+)/5\] time \d+\.\d{3} \(\d+\.\d{3}\) data \d+\.\d{3} \(\d+\.\d{3}\) "
    r"loss \d+\.\d{4} \(\d+\.\d{4}\) acc \d+\.\d{4} \(\d+\.\d{4}\) lr (\d\.\d{4}e-\d\d) eta \d:\d\d:\d\d$"
)


def parse_as_coop_does(text, keyword, signal="Finish training"):
    """The last ``* keyword: x%`` after a line that equals the signal."""
    value, armed = None, False
    for line in text.splitlines():
        armed = armed or line.strip() == signal
        match = re.search(rf"\* {keyword}: ([\.\deE+-]+)%", line)
        if match and armed:
            value = float(match.group(1))
    return value


def test_log_file_reads_as_dassls(image_root, tmp_path):
    trainer = train(image_root, tmp_path / "run", "TEST.PER_CLASS_RESULT", True)
    log = (tmp_path / "run" / "log.txt").read_text()
    lines = [match for match in map(TRAIN_LINE.match, log.splitlines()) if match]
    assert [(m[1], m[2]) for m in lines] == [(e, b) for e in "123" for b in "24"]
    assert [m[3] for m in lines] == ["1.0000e-05"] * 2 + ["5.0000e-02"] * 2 + ["3.7500e-02"] * 2
    phrases = ["Finish training", "Deploy the last-epoch model", "Evaluate on the *test* set", "=> result"]
    phrases += ["* total: 12", "Elapsed: 0:00:"]
    positions = [log.index(phrase) for phrase in phrases]
    assert positions == sorted(positions)
    for keyword, key in (("accuracy", "accuracy"), ("error", "error_rate"), ("macro_f1", "macro_f1")):
        assert parse_as_coop_does(log, keyword) == pytest.approx(trainer.results[key], abs=0.051)
        assert parse_as_coop_does(log, keyword, "=> result") == parse_as_coop_does(log, keyword)
    assert parse_as_coop_does(log, "average") == pytest.approx(
        trainer.results["perclass_accuracy"], abs=0.051
    )


def test_few_batches_are_all_printed(image_root, tmp_path):
    train(image_root, tmp_path / "run", "TRAIN.PRINT_FREQ", 6, "OPTIM.MAX_EPOCH", 1)
    assert (tmp_path / "run" / "log.txt").read_text().count("epoch [1/1] batch") == 5


def test_checkpoints_have_dassls_layout_and_load_anywhere(image_root, tmp_path):
    trainer = train(image_root, tmp_path / "run", "TRAIN.CHECKPOINT_FREQ", 2, "OPTIM.MAX_EPOCH", 5)
    folder = tmp_path / "run" / "net"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint", "model.pth.tar-2", "model.pth.tar-4", "model.pth.tar-5",
    ]  # fmt: skip
    assert (folder / "checkpoint").read_text() == "model.pth.tar-5\n"
    content = torch.load(folder / "model.pth.tar-5", weights_only=True)
    assert content["epoch"] == 5
    assert {
        "state_dict",
        "optimizer",
        "scheduler",
        "val_result",
        "config_hash",
        "split_hash",
    } <= content.keys()
    assert content["split_hash"] == trainer.dm.split_hash
    fresh = SmallTrainer(small_cfg(image_root, tmp_path / "other"))
    fresh.load_model(tmp_path / "run", epoch=5)
    assert all(map(torch.equal, fresh.model.state_dict().values(), trainer.model.state_dict().values()))
    fresh.load_model(tmp_path / "run", epoch=2)
    assert not torch.equal(fresh.model.head.weight, trainer.model.head.weight)
    fresh.load_model(tmp_path / "run")
    assert torch.equal(fresh.model.head.weight, trainer.model.head.weight)
    fresh.load_model("")
    with pytest.raises(CheckpointError, match=r"epoch 3.*\[2, 4, 5\]"):
        fresh.load_model(tmp_path / "run", epoch=3)


def test_state_that_does_not_fit_is_refused(image_root, tmp_path):
    train(image_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    base = SmallTrainer(small_cfg(image_root, tmp_path / "other", "DATASET.SUBSAMPLE_CLASSES", "base"))
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        base.load_model(tmp_path / "run")


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_same_seed_same_bits_and_another_seed_other_bits(image_root, tmp_path, seed):
    first = train(image_root, tmp_path / "a", "SEED", seed)
    torch.rand(7)
    second = train(image_root, tmp_path / "b", "SEED", seed, "TRAIN.CHECKPOINT_SECONDS", -1)
    other = train(image_root, tmp_path / "c", "SEED", seed ^ 5)
    assert fingerprint(first) == fingerprint(second)
    assert first.results == second.results
    assert fingerprint(first) != fingerprint(other)


def test_bits_do_not_depend_on_loader_workers(image_root, tmp_path):
    prints = {
        fingerprint(train(image_root, tmp_path / str(n), "DATALOADER.NUM_WORKERS", n)) for n in (0, 1, 2)
    }
    assert len(prints) == 1


def test_validation_in_between_changes_no_bit(image_root, tmp_path):
    plain = train(image_root, tmp_path / "a", "TEST.NO_TEST", True)

    class Validating(SmallTrainer):
        def after_epoch(self):
            self.test(split="val")
            super().after_epoch()

    assert fingerprint(
        train(image_root, tmp_path / "b", "TEST.NO_TEST", True, cls=Validating)
    ) == fingerprint(plain)


def test_negative_seed_is_drawn_logged_and_kept(image_root, tmp_path, caplog):
    with caplog.at_level("INFO", logger="cpt_plugin"):
        trainer = SmallTrainer(small_cfg(image_root, tmp_path, "SEED", -1))
    assert trainer.cfg.SEED >= 0
    assert str(trainer.cfg.SEED) in caplog.text


class Poisoned(SmallTrainer):
    """Puts a value that is not finite into the loss or into a gradient of the seventh step."""

    where = "loss"

    def forward_backward(self, batch):
        if self.epoch * self.num_batches + self.batch_idx == 7:
            self.before = fingerprint(self)
            image, label, _ = self.parse_batch_train(batch)
            loss = self.model(image)[torch.arange(len(label)), label].sum()
            if self.where == "loss":
                loss = loss * float("nan")
            else:
                self.model.head.weight.register_hook(lambda grad: grad * float("inf"))
            self.model_backward_and_update(loss)
        return super().forward_backward(batch)


@pytest.mark.parametrize(("where", "name"), [("loss", "the loss is nan"), ("gradient", r"net\.head\.weight")])
def test_values_that_are_not_finite_stop_before_the_update(image_root, tmp_path, where, name):
    trainer = Poisoned(small_cfg(image_root, tmp_path / "run"))
    trainer.where = where
    with pytest.raises(TrainingError, match=rf"{name}.*epoch 2, batch 3.*state-000000005"):
        trainer.train()
    assert fingerprint(trainer) == trainer.before


def test_several_visible_gpus_are_refused(image_root, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=0"):
        SmallTrainer(small_cfg(image_root, tmp_path, "USE_CUDA", True))


def test_out_of_range_configuration_stops_before_data_are_read(tmp_path):
    with pytest.raises(ConfigError, match="IMBALANCE_TAU"):
        SmallTrainer(small_cfg(tmp_path / "absent", tmp_path, "DATASET.IMBALANCE_TAU", 2))


def test_data_set_without_training_images_is_for_evaluation_only(image_root, tmp_path):
    class TestOnly(SmallTrainer):
        def build_data_loader(self):
            super().build_data_loader()
            self.train_loader_x = None

    trainer = TestOnly(small_cfg(image_root, tmp_path))
    assert 0 <= trainer.test() <= 100
    with pytest.raises(DataError, match="no training images"):
        trainer.train()


class WithoutValidation(SmallTrainer):
    def build_data_loader(self):
        super().build_data_loader()
        self.val_loader = None


def test_validation_never_takes_test_images(image_root, tmp_path):
    trainer = SmallTrainer(small_cfg(image_root, tmp_path))
    trainer.test("val")
    assert sum(total for _, total in trainer.evaluator.class_counts()) == 8
    without = WithoutValidation(small_cfg(image_root, tmp_path))
    with pytest.raises(ConfigError, match="SmallShapes has none"):
        without.test("val")
    without.test()
    assert sum(total for _, total in without.evaluator.class_counts()) == 12


@pytest.mark.parametrize("option", [("TEST.FINAL_MODEL", "best_val"), ("TEST.SPLIT", "val")])
def test_selection_without_validation_images_is_refused_before_training(image_root, tmp_path, option):
    trainer = WithoutValidation(small_cfg(image_root, tmp_path, *option))
    with pytest.raises(ConfigError, match=f"{' '.join(option)} needs validation images"):
        trainer.train()
    assert not list(tmp_path.rglob("*.pth.tar*"))
    WithoutValidation(small_cfg(image_root, tmp_path, *option, "TEST.NO_TEST", True)).train()


def test_public_methods_of_the_base_say_what_they_do():
    public = [value for name, value in vars(engine.TrainerBase).items() if not name.startswith("_")]
    assert [method.__name__ for method in public if callable(method) and not method.__doc__] == []


def test_evaluation_is_repeatable_and_in_eval_mode(image_root, tmp_path):
    trainer = SmallTrainer(small_cfg(image_root, tmp_path))
    trainer.set_model_mode("train")
    first = (trainer.test(), trainer.evaluator.class_counts())
    assert not trainer.model.training
    assert (trainer.test(), trainer.evaluator.class_counts()) == first
    assert isinstance(trainer.results, OrderedDict)


def test_names_of_registered_models_are_checked(image_root, tmp_path):
    trainer = SmallTrainer(small_cfg(image_root, tmp_path))
    with pytest.raises(ConfigError, match="already registered"):
        trainer.register_model("net", trainer.model)
    with pytest.raises(ConfigError, match="no model is registered as 'nat'"):
        trainer.set_model_mode("train", "nat")
    with pytest.raises(ConfigError, match="prediction"):
        trainer.set_model_mode("prediction")


def test_terminal_shows_a_bar_and_keeps_epoch_lines_in_the_file(image_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    train(image_root, tmp_path / "run", "OPTIM.MAX_EPOCH", 1)
    out = capsys.readouterr()
    assert "batch [2/5]" not in out.out
    assert "* accuracy" in out.out
    assert "5/5" in out.err
    assert "batch [2/5]" in (tmp_path / "run" / "log.txt").read_text()


def test_importing_the_engine_loads_nothing_heavy():
    code = (
        "import sys, cpt_plugin.toolkit.embedded\n"
        "heavy = {'torchvision', 'sklearn', 'matplotlib', 'tensorboard', 'faiss', 'clip', 'dassl', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]")
