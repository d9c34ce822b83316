"""The part of a trainer that knows registered models, optimizers and schedulers, but no data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.errors import CheckpointError, ConfigError, TrainingError
from cpt_plugin.toolkit.embedded.checkpoint import load_checkpoint, save_checkpoint
from cpt_plugin.toolkit.embedded.logs import LOGGER, summary_writer
from cpt_plugin.toolkit.embedded.models import unwrapped_state

FORMAT_VERSION = 2
BEST_NAME = "model-best.pth.tar"


class TrainerBase:
    """Registers models under names and drives the generic training loop; names and calls as in Dassl."""

    epoch: int
    batch_idx: int = 0
    start_epoch: int
    max_epoch: int

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None
        self.last_saved: Path | None = None

    def register_model(
        self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None
    ) -> None:
        """Registers a module with its optimizer and scheduler, to be switched and saved under ``name``.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._models:
            raise ConfigError(f"a model is already registered as {name!r}; choose another name")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: str | Sequence[str] | None = None) -> list[str]:
        """Returns all registered names, or the given ones after checking that they are registered."""
        chosen = list(self._models) if names is None else [names] if isinstance(names, str) else list(names)
        unknown = [name for name in chosen if name not in self._models]
        if unknown:
            raise ConfigError(f"no model is registered as {unknown[0]!r}; registered: {list(self._models)}")
        return chosen

    def set_model_mode(self, mode: str = "train", names: str | Sequence[str] | None = None) -> None:
        """Switches the named models (default: all) to training, or to evaluation.

        Raises:
            ConfigError: the mode is not train, test or eval, or a name is not registered.
        """
        if mode not in ("train", "test", "eval"):
            raise ConfigError(f"the mode of a model is train, test or eval, not {mode!r}")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: str | Sequence[str] | None = None) -> None:
        """Steps the schedulers of the named models (default: all); call it once an epoch, after the last batch.

        Raises:
            ConfigError: a name is not registered.
        """
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: str | Sequence[str] | None = None) -> float:
        """Returns the learning rate of the first group of the first named model that has an optimizer."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                return self._optims[name].param_groups[0]["lr"]
        return 0.0

    # -- the loop ------------------------------------------------------------------------------------------

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Runs ``before_train``, the epochs, and ``after_train``; ``before_train`` may move ``start_epoch``.

        ``before_epoch`` runs again when a run is resumed inside an epoch, so it must follow from
        ``self.epoch``.
        """
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        try:
            self.before_train()
            for epoch in range(self.start_epoch, self.max_epoch):
                self.epoch = epoch
                self.reseed("epoch", self.epoch)
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
            self.after_train()
        finally:
            self.close()

    def reseed(self, stream: str, *counters: int) -> None:
        """Called before each epoch, step and evaluated batch, to seed the global generators."""

    def before_train(self) -> None:
        """Called once before the first epoch; does nothing here."""

    def before_epoch(self) -> None:
        """Called before each epoch; does nothing here."""

    def after_epoch(self) -> None:
        """Called after each epoch; does nothing here."""

    def after_train(self) -> None:
        """Called once after the last epoch; does nothing here."""

    def run_epoch(self) -> None:
        """Trains one epoch; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define run_epoch()")

    def forward_backward(self, batch: Any) -> dict[str, Any] | None:
        """Trains one step on a batch and returns the values to be logged; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward_backward()")

    def close(self) -> None:
        """Lets go of the writer; runs also after an error."""
        self.close_writer()

    # -- the step ------------------------------------------------------------------------------------------

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raises :class:`TrainingError` for a loss that is not finite, before the parameters change."""
        if not torch.isfinite(loss).all():
            raise TrainingError(f"the loss is {loss.detach().flatten()[0].item()} {self._position()}")

    def check_gradients(self, names: str | Sequence[str] | None = None) -> None:
        """Raises :class:`TrainingError` naming the first parameter whose gradient is not finite."""
        for name in self.get_model_names(names):
            parameters = self._models[name].named_parameters()
            named = [(n, p.grad) for n, p in parameters if p.grad is not None]
            if not named:
                continue
            finite = torch.stack([torch.isfinite(grad).all() for _, grad in named])
            if not finite.all():
                parameter = named[int(finite.int().argmin())][0]
                raise TrainingError(f"the gradient of {name}.{parameter} is not finite {self._position()}")

    def _position(self) -> str:
        saved = (
            f"the last good checkpoint is {self.last_saved}" if self.last_saved else "there is no checkpoint"
        )
        return (
            f"(epoch {self.epoch + 1}, batch {self.batch_idx + 1}); no parameter was changed by this step; "
            f"{saved}. A lower OPTIM.LR or PREC fp32 often helps"
        )

    def model_zero_grad(self, names: str | Sequence[str] | None = None) -> None:
        """Clears the gradients that the optimizers of the named models (default: all) act on.

        Raises:
            ConfigError: a name is not registered.
        """
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Back-propagates a scalar loss; gradients add to those that are there.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | Sequence[str] | None = None) -> None:
        """Steps the optimizers of the named models (default: all), without looking at the gradients.

        Raises:
            ConfigError: a name is not registered.
        """
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: str | Sequence[str] | None = None) -> None:
        """Zeroes gradients, back-propagates and steps; updates nothing if loss or gradient is not finite.

        Raises:
            TrainingError: the loss or a gradient is not finite.
            ConfigError: a name is not registered.
        """
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.check_gradients(names)
        self.model_update(names)

    # -- saved models --------------------------------------------------------------------------------------

    def model_state(self, name: str) -> dict[str, Any]:
        """Returns what is saved of a model: its state dict. Override to leave frozen parts out."""
        return unwrapped_state(self._models[name])

    def load_model_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Puts a saved state into a registered model, strictly.

        Raises:
            CheckpointError: a name is missing or unexpected, or a shape differs.
        """
        try:
            self._models[name].load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointError(f"the saved model {name!r} does not fit this run: {error}") from error

    def checkpoint_header(self) -> dict[str, Any]:
        """Returns what identifies a run in its checkpoints."""
        return {"format_version": FORMAT_VERSION}

    def save_model(
        self,
        epoch: int,
        directory: str | Path,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Saves every registered model as ``<directory>/<name>/model.pth.tar-<epoch + 1>`` (Dassl's layout).

        Args:
            epoch: finished epoch, from 0.
            directory: output folder of the run.
            is_best: also save as ``model-best.pth.tar``.
            val_result: validation result to be kept with it.
            model_name: file name instead of the default one.
        """
        file_name = model_name or f"model.pth.tar-{epoch + 1}"
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                **self.checkpoint_header(),
                "state_dict": self.model_state(name),
                "epoch": epoch + 1,
                "optimizer": optim.state_dict() if optim is not None else None,
                "scheduler": sched.state_dict() if sched is not None else None,
                "val_result": val_result,
            }
            folder = Path(directory) / name
            for target in [file_name, BEST_NAME] if is_best else [file_name]:
                save_checkpoint(state, folder / target)
                LOGGER.info(f"Checkpoint saved to {folder / target}")
            atomic_write_text(folder / "checkpoint", f"{file_name}\n")
            self.last_saved = folder / file_name

    def load_model(self, directory: str | Path, epoch: int | None = None) -> None:
        """Loads every registered model from a folder written by :meth:`save_model`.

        Args:
            directory: output folder of the run; empty loads nothing, as in Dassl.
            epoch: epoch to load, from 1; by default ``model-best.pth.tar``, or the last epoch if there is
            none.

        Raises:
            CheckpointError: the file is missing or damaged, or does not fit.
        """
        if not directory:
            LOGGER.info("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = find_model(Path(directory) / name, epoch)
            content = load_checkpoint(path)
            self.load_model_state(name, content["state_dict"])
            LOGGER.info(
                f"Load {path} to {name} (epoch={content['epoch']}, val_result={content['val_result']})"
            )

    # -- curves --------------------------------------------------------------------------------------------

    def init_writer(self, log_dir: str | Path, purge_step: int | None = None) -> None:
        """Opens TensorBoard's event files in ``log_dir`` unless they are open; does without where it is absent.

        ``purge_step`` is, on a resume, the step from which earlier curves are overwritten.
        """
        if self._writer is None:
            self._writer = summary_writer(log_dir, purge_step)

    def close_writer(self) -> None:
        """Closes the event files; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Adds a point to the curve ``tag``; does nothing while no event file is open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)


def saved_epochs(folder: Path) -> dict[int, Path]:
    """Returns the files ``model.pth.tar-<epoch>`` of a registered model's folder by epoch (from 1)."""
    return {int(p.name.rsplit("-", 1)[1]): p for p in folder.glob("model.pth.tar-*") if p.name[14:].isdigit()}


def find_model(folder: Path, epoch: int | None = None) -> Path:
    """Returns the model file of an epoch (from 1), by default the best one, else the one of the last epoch.

    Raises:
        CheckpointError: there is none; the message lists what the folder holds.
    """
    epochs = saved_epochs(folder)
    if epoch is not None and epoch in epochs:
        return epochs[epoch]
    if epoch is None and (folder / BEST_NAME).is_file():
        return folder / BEST_NAME
    if epoch is None and epochs:
        return epochs[max(epochs)]
    wanted = "a model" if epoch is None else f"epoch {epoch}"
    raise CheckpointError(
        f"{folder} holds no checkpoint of {wanted}; epochs there: {sorted(epochs) or 'none'}. "
        "Check the folder (--model-dir) and the epoch (--load-epoch)"
    )
