"""Whole-run states for an exact resume: content, files, and whether they belong to this run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cpt_plugin._names import some
from cpt_plugin.config_identity import config_hash, differences
from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.base import BEST_NAME, find_model, saved_epochs
from cpt_plugin.toolkit.embedded.checkpoint import latest_good, load_checkpoint, save_checkpoint
from cpt_plugin.toolkit.embedded.logs import LOGGER
from cpt_plugin.toolkit.embedded.rng import rng_state, set_rng_state

FOLDER = "resume"
KEEP = 2


class ResumeFolder:
    """The files ``state-<global step>.pth.tar`` of one run; the newest two are kept."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / FOLDER

    def newest_first(self) -> list[Path]:
        """Returns the state files, newest first."""
        files = [p for p in self.path.glob("state-*.pth.tar") if _step(p).isdigit()]
        return sorted(files, key=lambda p: int(_step(p)), reverse=True)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes the state of a global step, then deletes all but the newest two."""
        path = self.path / f"state-{step:09d}.pth.tar"
        save_checkpoint(state, path)
        for old in self.newest_first()[KEEP:]:
            old.unlink(missing_ok=True)
        return path

    def remove(self) -> None:
        """Deletes the folder, quarantined files included."""
        shutil.rmtree(self.path, ignore_errors=True)


def _step(path: Path) -> str:
    return path.name.removeprefix("state-").removesuffix(".pth.tar")


def run_identity(trainer: Any, toolkit: str = "embedded") -> dict[str, Any]:
    """Returns what every checkpoint says about its run: hashes, configuration, versions, derived state."""
    names = [trainer.lab2cname[label] for label in sorted(trainer.lab2cname)]
    dm = getattr(trainer, "dm", None)
    counts = getattr(dm, "class_counts", None)
    return {
        "toolkit": toolkit,
        "torch": str(torch.__version__),
        "config": (config := trainer.hashed_config()),
        "config_hash": config_hash(config),
        "split_hash": getattr(dm, "split_hash", ""),
        "class_names": names,
        "class_counts": None if counts is None else list(counts),
        "extra": trainer.checkpoint_extra(),
    }


def collect_state(trainer: Any, epoch: int, batch: int) -> dict[str, Any]:
    """Returns everything needed to go on with batch ``batch`` of epoch ``epoch`` (both from 0)."""
    names = trainer.get_model_names()
    optims, scheds = trainer._optims, trainer._scheds
    return {
        **trainer.checkpoint_header(),
        "epoch": epoch,
        "batch": batch,
        "step": trainer.step_of(epoch, batch),
        "models": {name: trainer.model_state(name) for name in names},
        "optimizers": {name: optims[name].state_dict() for name in names if optims[name] is not None},
        "schedulers": {name: scheds[name].state_dict() for name in names if scheds[name] is not None},
        "best_result": float(trainer.best_result),
        "rng": rng_state(),
        "trainer": trainer.resume_extra(),
    }


def restore_state(trainer: Any, state: Mapping[str, Any]) -> None:
    """Puts a state of :func:`collect_state` into a freshly built trainer of the same run."""
    for name, saved in state["models"].items():
        trainer.load_model_state(name, saved)
    for name, saved in state["optimizers"].items():
        trainer._optims[name].load_state_dict(saved)
    for name, saved in state["schedulers"].items():
        trainer._scheds[name].load_state_dict(saved)
    trainer.load_header(state)
    trainer.best_result = state["best_result"]
    trainer.load_resume_extra(state["trainer"])
    set_rng_state(state["rng"])


def resume_run(trainer: Any, directory: Path) -> tuple[int, int, float, Path | None]:
    """Restores the newest good state in ``<directory>/resume`` into a trainer.

    Returns:
        Next epoch and batch (from 0), seconds trained so far, and the file that was read.

    Raises:
        CheckpointError: nothing is there, every file is damaged, or it belongs to another run.
    """
    files = ResumeFolder(directory).newest_first()
    if not files:
        elapsed = _load_finished(trainer, directory)
        LOGGER.info(f"Resumed from the finished run in {directory} (epoch {trainer.max_epoch}, batch 0)")
        return trainer.max_epoch, 0, elapsed, None
    path, state = latest_good(files)
    _check(trainer, state, path)
    _check_schedule(trainer, state, path)
    restore_state(trainer, state)
    LOGGER.info(f"Resumed from {path} (epoch {state['epoch']}, batch {state['batch']})")
    return state["epoch"], state["batch"], state["elapsed"], path


def refuse_overwriting(trainer: Any, directory: Path) -> None:
    """Looks whether training from scratch would replace models in ``directory`` that are worth keeping.

    Unfinished models of the very same run (killed before its first state) would come out the same, so they may
    be replaced.

    Raises:
        CheckpointError: the models are those of a finished run, or of another one; names what differs.
    """
    finished = []
    for name in trainer.get_model_names():
        epochs = saved_epochs(directory / name)
        last = epochs[max(epochs)] if epochs else directory / name / BEST_NAME
        if not last.is_file():
            continue
        content = load_checkpoint(last)
        try:
            _check(trainer, content, last)
        except CheckpointError as error:
            raise CheckpointError(f"training would write over the models in {directory}: {error}") from error
        if trainer.max_epoch in epochs:
            finished.append(name)
    if finished and finished == trainer.get_model_names():
        raise CheckpointError(
            f"{directory} holds this run, finished; evaluate it (--eval-only --model-dir), test it again "
            "(--resume), choose another --output-dir, or delete that folder to train again"
        )


def _load_finished(trainer: Any, directory: Path) -> float:
    """Loads the last models of a finished run with its meters; returns the seconds that it trained."""
    names = trainer.get_model_names()
    try:
        paths = {name: find_model(directory / name, trainer.max_epoch) for name in names}
    except CheckpointError as error:
        raise CheckpointError(
            f"{directory} holds nothing to resume; leave RESUME empty (no --resume) to start from scratch"
        ) from error
    elapsed = 0.0
    for name, path in paths.items():
        content = load_checkpoint(path)
        _check(trainer, content, path)
        trainer.load_model_state(name, content["state_dict"])
        trainer.load_header(content)
        elapsed = content["elapsed"]
    return elapsed


def _check(trainer: Any, saved: Mapping[str, Any], path: Path) -> None:
    check_same_run(trainer.checkpoint_header(), saved, path)
    trainer.check_extra(dict(saved["extra"]))


def _check_schedule(trainer: Any, state: Mapping[str, Any], path: Path) -> None:
    """Refuse a state of the versions in which epochs of different lengths stopped the schedule; it has no step."""
    if "step" not in state and not getattr(trainer.train_loader_x.sampler, "even", True):
        raise CheckpointError(
            f"{path} was written by an earlier version, in which DATALOADER.TRAIN_X.SAMPLER "
            f"{trainer.cfg.DATALOADER.TRAIN_X.SAMPLER} kept the learning rate from following its schedule: start again "
            "in another output folder (--output-dir)"
        )


def check_same_run(own: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """Compares the headers of a checkpoint and of this run; a differing torch version only warns.

    Raises:
        CheckpointError: naming each part that differs, and for the configuration each key with both values.
    """
    differing = []
    if saved.get("format_version") != own["format_version"]:
        differing.append(f"format version {saved.get('format_version')} instead of {own['format_version']}")
    if saved.get("config_hash") != own["config_hash"]:
        changed = differences(saved.get("config") or {}, own["config"])
        differing.append("configuration (saved != now): " + ("; ".join(changed) or "hash"))
    if saved.get("split_hash") != own["split_hash"]:
        differing.append("images, labels or class names (split hash)")
    if saved.get("class_names") != own["class_names"]:
        differing.append("class names: " + _differing_names(saved.get("class_names") or [], own["class_names"]))
    if differing:
        raise CheckpointError(
            f"{path} belongs to another run; it differs in {'; '.join(differing)}. "
            "Restore these, or start again in another output folder (--output-dir)"
        )
    if saved.get("torch") != own["torch"]:
        LOGGER.warning(
            f"{path} was written by torch {saved.get('torch')}; with {own['torch']} results may differ"
        )


def _differing_names(saved: Sequence[str], own: Sequence[str]) -> str:
    if sorted(saved) == sorted(own):
        return "the same ones in another order"
    gone, come = sorted({*saved} - {*own}), sorted({*own} - {*saved})
    return f"saved for {len(saved)} ({some(gone)} not here), now {len(own)} ({some(come)} not there)"
