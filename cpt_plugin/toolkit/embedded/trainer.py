"""Trainers with Dassl's lifecycle, with exact resume and results that do not depend on loader workers."""

from __future__ import annotations

import datetime
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cpt_plugin._loader_workers import worker_failures_named
from cpt_plugin.config_identity import hashed_part
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from cpt_plugin.toolkit.embedded.base import TrainerBase
from cpt_plugin.toolkit.embedded.config import follow_shots, resolve_seed, validate
from cpt_plugin.toolkit.embedded.group_report import report_groups
from cpt_plugin.toolkit.embedded.loader import DataManager, batches, epoch_batches, items_of, release_workers
from cpt_plugin.toolkit.embedded.logs import FILE_ONLY, LOGGER, Progress
from cpt_plugin.toolkit.embedded.meters import AverageMeter, MetricMeter
from cpt_plugin.toolkit.embedded.registry import build_evaluator
from cpt_plugin.toolkit.embedded.resume import (
    ResumeFolder,
    collect_state,
    refuse_overwriting,
    resume_run,
    run_identity,
)
from cpt_plugin.toolkit.embedded.rng import derive_seed, set_random_seed
from cpt_plugin.toolkit.embedded.selection import chooses_epoch, require_validation


class SimpleTrainer(TrainerBase):
    """Builds data, model and evaluator from a configuration; trains, checkpoints, resumes and tests."""

    train_loader_x: Any
    lab2cname: dict[int, str]
    num_classes: int
    dm: Any
    model: Any

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        validate(cfg)
        self.check_cfg(cfg)
        self.cfg = follow_shots(resolve_seed(cfg))
        if cfg.SEED < 0:
            LOGGER.info(f"SEED {cfg.SEED} is negative; drawn instead: {self.cfg.SEED}")
        self.device = choose_device(cfg.USE_CUDA)
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.best_result = -math.inf
        self.results: OrderedDict[str, float] = OrderedDict()
        self.losses = MetricMeter()
        self.history: list[dict[str, float]] = []
        self.num_batches = 0
        self._first_steps = [0]
        self._start_batch = 0
        self._validated: Any = None
        self.train_seconds = 0.0
        self._time_start = time.monotonic()
        self._last_save = self._time_start
        self._resume = ResumeFolder(self.output_dir)
        self._progress: Progress | None = None
        self.build_data_loader()
        self.reseed("model")
        self.build_model()
        self.evaluator = build_evaluator(self.cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg: Any) -> None:
        """Called first; raise :class:`ConfigError` for values this trainer cannot work with."""

    def build_data_loader(self) -> None:
        """Makes the loaders and what describes the classes; an override must set the same attributes."""
        dm = self.build_data_manager()
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.lab2cname = dm.num_classes, dm.lab2cname
        self.num_source_domains = dm.num_source_domains
        self.dm = dm

    def build_data_manager(self) -> DataManager:
        """The data set and its loaders."""
        return DataManager(self.cfg)

    def build_model(self) -> None:
        """Makes ``self.model`` and calls ``register_model``; the global generators are freshly seeded."""
        raise NotImplementedError(f"{type(self).__name__} does not define build_model()")

    def reseed(self, stream: str, *counters: int) -> None:
        set_random_seed(derive_seed(self.cfg.SEED, stream, *counters))

    # -- lifecycle -----------------------------------------------------------------------------------------

    @worker_failures_named()
    def train(self) -> None:  # type: ignore[override]
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resumes when ``cfg.RESUME`` names a folder, then opens the writer and starts the clock.

        Raises:
            DataError: there is nothing to train on, or a sampler gives an epoch no batch.
            ConfigError: validation images are needed (best_val, TEST.SPLIT val) and there are none, or they are test
                images.
            CheckpointError: there is nothing (fitting) to resume, or models of an interrupted, a finished or
                another run would be overwritten.
        """
        if self.train_loader_x is None:
            raise DataError(
                f"{self.cfg.DATASET.NAME} has no training images; it can only be evaluated (--eval-only)"
            )
        if chooses_epoch(self.cfg):
            self._require_validation("TEST.FINAL_MODEL best_val")
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.SPLIT == "val":
            self._require_validation("TEST.SPLIT val")
        self._refuse_empty_epochs()
        self.num_batches = epoch_batches(self.train_loader_x, self.start_epoch)
        self._time_start = self._last_save = time.monotonic()
        if self.cfg.RESUME:
            self.resume(Path(self.cfg.RESUME))
        elif self._resume.newest_first():
            raise CheckpointError(
                f"{self.output_dir} holds an interrupted run; resume it (--resume), choose another "
                f"--output-dir, or delete {self._resume.path} to start again"
            )
        else:
            refuse_overwriting(self, Path(self.output_dir))
        done = self.step_of(self.start_epoch, self._start_batch)
        self.init_writer(Path(self.output_dir) / "tensorboard", purge_step=done or None)
        self._progress = Progress(self.num_steps, initial=done, description="train")

    def step_of(self, epoch: int, batch: int) -> int:
        """Number of a batch of an epoch among those of all epochs (all from 0), which may differ in length."""
        while len(self._first_steps) <= epoch:
            length = epoch_batches(self.train_loader_x, len(self._first_steps) - 1)
            self._first_steps.append(self._first_steps[-1] + length)
        return self._first_steps[epoch] + batch

    @property
    def global_step(self) -> int:
        """Number of the running step among those of all epochs, from 0."""
        return self.step_of(self.epoch, self.batch_idx)

    @property
    def num_steps(self) -> int:
        """Steps of all epochs."""
        return self.step_of(self.max_epoch, 0)

    def _refuse_empty_epochs(self) -> None:
        for epoch in range(self.max_epoch):
            if self.step_of(epoch + 1, 0) == self.step_of(epoch, 0):
                train = self.cfg.DATALOADER.TRAIN_X
                raise DataError(
                    f"epoch {epoch + 1} would have no batch of {train.BATCH_SIZE} images: so few does {train.SAMPLER} "
                    f"draw there from {len(self.train_loader_x.dataset)}; lower DATALOADER.TRAIN_X.BATCH_SIZE, or make "
                    "it a multiple of N_INS"
                )

    def after_epoch(self) -> None:
        """Validates when the best model is wanted, saves the model when due, and the state for a resume."""
        self.history.append(self.epoch_values())
        is_last = self.epoch + 1 == self.max_epoch
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        if chooses_epoch(self.cfg):
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(
                    self.epoch, self.output_dir, val_result=result, model_name="model-best.pth.tar"
                )
        if is_last or (frequency > 0 and (self.epoch + 1) % frequency == 0):
            self.save_model(self.epoch, self.output_dir)
        self.save_state(self.epoch + 1, 0)

    def epoch_values(self) -> dict[str, float]:
        """Returns what ``history`` keeps of the epoch that has just ended: means of the logged values."""
        return {name: meter.avg for name, meter in self.losses.meters.items()}

    def after_train(self) -> None:
        """Tests the chosen model, then removes the states of the finished run."""
        if self._progress is not None:
            self._progress.close()
        LOGGER.info("Finish training")
        self.train_seconds = self.elapsed()
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                LOGGER.info("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                LOGGER.info("Deploy the last-epoch model")
            self.test()
        self._resume.remove()
        LOGGER.info(f"Elapsed: {datetime.timedelta(seconds=round(self.elapsed()))}")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
        release_workers(getattr(self, "train_loader_x", None))
        super().close()

    def elapsed(self) -> float:
        """Returns the seconds since training began, those before a resume included."""
        return time.monotonic() - self._time_start

    @torch.no_grad()
    @worker_failures_named()
    def test(self, split: str | None = None) -> float:
        """Evaluates on ``split`` (default ``TEST.SPLIT``), returns the accuracy in %.

        All results stay in ``self.results``, the evaluator's counts in ``self.evaluator``.

        Raises:
            ConfigError: ``split`` is val and there are no validation images, for which Dassl would take test images,
                or they are test images.
            DataError: there are no test images.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = "val" if (split or self.cfg.TEST.SPLIT) == "val" else "test"
        if split == "val":
            self._require_validation("evaluation on val")
        loader = self.val_loader if split == "val" else self.test_loader
        if loader is None:
            raise DataError(f"{self.cfg.DATASET.NAME} has no {split} images")
        LOGGER.info(f"Evaluate on the *{split}* set")
        progress = Progress(len(loader), description=split)
        for index, batch in enumerate(batches(loader)):
            self.reseed("evaluate", index)
            inputs, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(inputs), label)
            progress.update()
        progress.close()
        self.results = self.evaluator.evaluate()
        self.results.update(report_groups(getattr(self, "dm", None), self.evaluator, self.images_trained_on()))
        for key, value in self.results.items():
            self.write_scalar(f"{split}/{key}", value, self.epoch)
        return next(iter(self.results.values()))

    def images_trained_on(self) -> list[int | None]:
        """Images that each class here was trained on, by label; None for one that was not, as new classes.

        As the configuration has it; a trainer whose checkpoints say what they were trained on goes by these.
        """
        counts: list[int | None] = list(getattr(getattr(self, "dm", None), "class_counts", ()))
        return [None] * len(counts) if self.cfg.DATASET.SUBSAMPLE_CLASSES == "new" else counts

    def _require_validation(self, reason: str) -> None:
        if self.val_loader is None or self.val_loader is not self._validated:
            require_validation(items_of(self.val_loader), items_of(self.test_loader), self.cfg.DATASET.NAME, reason)
            self._validated = self.val_loader

    def model_inference(self, input: Any) -> torch.Tensor:
        return self.model(input)

    def parse_batch_test(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    # -- checkpoints and resume ----------------------------------------------------------------------------

    def hashed_config(self) -> dict[str, Any]:
        """Returns the flat configuration that tells this run from others; kept in every checkpoint."""
        return hashed_part(self.cfg)

    def checkpoint_extra(self) -> dict[str, Any]:
        """Returns plain values that identify this trainer's derived state; kept in every checkpoint."""
        return {}

    def check_extra(self, saved: dict[str, Any]) -> None:
        """Compares saved values of :meth:`checkpoint_extra` on resume; raises :class:`CheckpointError`."""
        own = self.checkpoint_extra()
        differing = sorted(key for key in own.keys() | saved.keys() if own.get(key) != saved.get(key))
        if differing:
            pairs = ", ".join(f"{key} (saved {saved.get(key)!r}, now {own.get(key)!r})" for key in differing)
            raise CheckpointError(f"the checkpoint belongs to another run; it differs in {pairs}")

    def resume_extra(self) -> dict[str, Any]:
        """Returns tensors and plain values to be restored on resume besides the registered models."""
        scaler = getattr(self, "scaler", None)
        return {"scaler": scaler.state_dict()} if scaler is not None else {}

    def load_resume_extra(self, saved: dict[str, Any]) -> None:
        if saved.get("scaler"):
            self.scaler.load_state_dict(saved["scaler"])  # type: ignore[attr-defined]

    def checkpoint_header(self) -> dict[str, Any]:
        return {
            **super().checkpoint_header(),
            **run_identity(self),
            "meters": self.losses.state_dict(),
            "history": self.history,
            "elapsed": self.elapsed(),
        }

    def load_header(self, saved: Mapping[str, Any]) -> None:
        """Takes over from a checkpoint of this run what its training has told so far."""
        self.losses.load_state_dict(saved["meters"])
        self.history = list(saved["history"])

    def save_state(self, epoch: int, batch: int) -> None:
        """Writes the state to go on from batch ``batch`` of epoch ``epoch`` (both from 0)."""
        self.last_saved = self._resume.save(self.step_of(epoch, batch), collect_state(self, epoch, batch))
        self._last_save = time.monotonic()

    def resume(self, directory: Path) -> None:
        """Goes on from the newest good state in ``<directory>/resume``.

        A finished run has none left: its last models are loaded and nothing is trained.

        Raises:
            CheckpointError: nothing is there, every file is damaged, or it belongs to another run.
        """
        self.start_epoch, self._start_batch, elapsed, self.last_saved = resume_run(self, directory)
        self._time_start -= elapsed


class TrainerX(SimpleTrainer):
    """Trains on labelled data; a subclass defines ``build_model`` and ``forward_backward``."""

    def run_epoch(self) -> None:
        """Runs one epoch, or the rest of the one that was resumed."""
        self.set_model_mode("train")
        self.num_batches = epoch_batches(self.train_loader_x, self.epoch)
        start, self._start_batch = self._start_batch, 0
        if not start:
            self.losses = MetricMeter()
        batch_time, data_time = AverageMeter(), AverageMeter()
        end = time.monotonic()
        loader = batches(self.train_loader_x, self.epoch, start)
        for self.batch_idx, batch in enumerate(loader, start):
            data_time.update(time.monotonic() - end)
            self.reseed("step", self.epoch, self.batch_idx)
            self.losses.update(self.forward_backward(batch))
            batch_time.update(time.monotonic() - end)
            self._report(batch_time, data_time)
            is_last = self.batch_idx + 1 == self.num_batches
            interval = self.cfg.TRAIN.CHECKPOINT_SECONDS
            if not is_last and 0 <= interval <= time.monotonic() - self._last_save:
                self.save_state(self.epoch, self.batch_idx + 1)
            end = time.monotonic()

    def parse_batch_train(self, batch: Mapping[str, Any]) -> Any:
        """Returns image, label and domain of a batch, on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))

    def _report(self, batch_time: AverageMeter, data_time: AverageMeter) -> None:
        frequency = self.cfg.TRAIN.PRINT_FREQ
        if self._progress is not None:
            self._progress.update(f"epoch {self.epoch + 1}/{self.max_epoch} {self.losses.brief()}")
        if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
            eta = datetime.timedelta(seconds=int(batch_time.avg * (self.num_steps - self.global_step - 1)))
            line = (
                f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
                f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
                f"data {data_time.val:.3f} ({data_time.avg:.3f}) {self.losses} "
                f"lr {self.get_current_lr():.4e} eta {eta}"
            )
            on_bar = self._progress is not None and self._progress.visible
            LOGGER.info(line, extra=FILE_ONLY if on_bar else None)
        step = self.global_step
        for name, meter in self.losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", self.get_current_lr(), step)


def choose_device(use_cuda: bool) -> torch.device:
    """Returns the one visible CUDA device if there is one and it is wanted, else the CPU.

    Raises:
        ConfigError: several devices are visible; prompt learners run on one.
    """
    if not (use_cuda and torch.cuda.is_available()):
        return torch.device("cpu")
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"{torch.cuda.device_count()} CUDA devices are visible, but prompt learning uses one: "
            "set CUDA_VISIBLE_DEVICES=0 (or another number), or USE_CUDA False"
        )
    return torch.device("cuda")
