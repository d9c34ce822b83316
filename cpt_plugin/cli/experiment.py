"""One run of the base-to-new protocol: train on base classes, evaluate base and new, write the record."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin.atomic import atomic_write_json
from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.repository import ROOT
from cpt_plugin.cli.settings import assemble, check_settings, identity_of, reads
from cpt_plugin.config_identity import config_hash, differences
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from cpt_plugin.locking import only_process
from cpt_plugin.methods import ZEROSHOT, Method
from cpt_plugin.results import record as records
from cpt_plugin.results.groups import group_accuracies, worst_class
from cpt_plugin.results.provenance import git_state, utc_now, versions

LOG = logging.getLogger("cpt_plugin")
FILE_ONLY = {"file_only": True}


@dataclass(frozen=True)
class Outcome:
    """A record, and how it came about: ``finished before``, ``resumed`` or ``new``; seconds spent now."""

    record: records.RunRecord
    status: str
    seconds: float


@dataclass(frozen=True)
class Experiment:
    """One method on one data set at one imbalance ratio with one seed, as ``arguments`` ask for it."""

    method: Method
    seed: int
    arguments: RunArguments

    @property
    def folder(self) -> Path:
        """``<output>/<dataset>/<method>/tau<tau>/seed<seed>``; colons of a world's name become dashes."""
        a = self.arguments
        return a.folder / self.method.name / f"tau{a.tau:g}" / f"seed{self.seed}"

    @property
    def record_file(self) -> Path:
        return self.folder / "record.json"

    @property
    def first_stage(self) -> Experiment | None:
        """For a method with DPC, the run from whose prompts this one starts."""
        first = self.method.first_stage
        return None if first is None else Experiment(first, self.seed, self.arguments)

    @property
    def trained(self) -> Experiment | None:
        """For a method that changes the evaluation alone, the run whose prompts this one evaluates."""
        trained = self.method.trained
        return None if trained is None else Experiment(trained, self.seed, self.arguments)

    @property
    def models(self) -> Path:
        """The folder with the prompts that are tested: this run's, or that of :attr:`trained`."""
        return self.folder if self.trained is None else self.trained.folder

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds an unfinished run that this one will continue."""
        return not self.record_file.is_file() and (self._states() != [] or self._final_models() != [])

    def reads(self, key: str) -> bool:
        """Whether this run's result can depend on a configuration key."""
        return reads(self.method, key)

    def check(self) -> None:
        """Raise ConfigError for settings that this run would refuse, as far as can be told without data."""
        check_settings(self.method, self.config("base"))

    def execute(self) -> Outcome:
        """Run, resume or skip; returns the record that lies in ``folder`` afterwards.

        While another process works on this run, wait for it.

        Raises:
            ConfigError: the folder holds a run with another configuration or other images (keys named).
            DataError: the folder cannot be written.
            CPTError: anything else that ends the run; what is finished stays on disk.
        """
        started = time.monotonic()
        self.config("base")
        for before in (self.first_stage, self.trained):
            if before is not None:
                before.execute()
        try:
            with only_process(self.folder):
                status, record = self._execute()
        except OSError as error:
            raise DataError(f"{error.filename or self.folder}: {error.strerror or error}") from error
        return Outcome(record, status, time.monotonic() - started)

    def config(self, classes: str) -> Any:
        """Frozen configuration of this run for ``base`` or ``new`` classes; resumes what is there.

        After a first stage it names that stage's prompts, by their folder for training and by their hash always.
        """
        cfg = assemble(self.method, self.seed, self.arguments, self.folder, classes)
        first = self.first_stage
        if first is not None and first.record_file.is_file():
            cfg.TRAINER.DPC.STAGE_ONE = str(first.folder) if classes == "base" else ""
            cfg.TRAINER.DPC.STAGE_ONE_HASH = records.load(first.record_file).prompts_hash
        if classes == "base" and (self._states() or self._final_models()):
            cfg.RESUME = str(self.folder)
        cfg.freeze()
        return cfg

    def _execute(self) -> tuple[str, records.RunRecord]:
        from cpt_plugin import toolkit

        if not self.record_file.is_file():
            self._set_damaged_models_aside()
        cfg = self.config("base")
        split_hash = toolkit.DataManager(cfg).split_hash
        identity = {"toolkit": toolkit.NAME, "split_hash": split_hash, "config": identity_of(self.method, cfg)}
        if self.trained is not None:
            identity["prompts_hash"] = records.load(self.trained.record_file).prompts_hash
        self._check_identity(identity)
        if self.record_file.is_file():
            return "finished before", records.load(self.record_file)
        atomic_write_json(self._identity_file, identity)
        try:
            record = self._train_and_test(cfg)
        except BaseException:
            if not (self._states() or self._final_models()):
                self._identity_file.unlink(missing_ok=True)
            raise
        records.save(record, self.record_file)
        return ("resumed" if cfg.RESUME else "new"), record

    def _states(self) -> list[Path]:
        from cpt_plugin.toolkit.embedded.resume import ResumeFolder

        return ResumeFolder(self.folder).newest_first()

    def _final_models(self) -> list[Path]:
        """Checkpoints of the last epoch; whatever states there are tell more, so none counts beside them."""
        if self._states():
            return []
        last = assemble(self.method, self.seed, self.arguments, self.folder, "base").OPTIM.MAX_EPOCH
        return sorted(self.folder.glob(f"*/model.pth.tar-{last}"))

    def _set_damaged_models_aside(self) -> None:
        """Rename damaged final models, so that training goes on from a state or starts anew, and says so.

        Raises:
            CheckpointError: only damaged states are left.
        """
        from cpt_plugin.toolkit import load_checkpoint

        for path in self._final_models():
            try:
                load_checkpoint(str(path))
            except CheckpointError as error:
                LOG.warning(f"Training again: {error}")
                path.rename(path.with_name(f"{path.name}.corrupt"))
        damaged = sorted(self.folder.glob("resume/*.corrupt*"))
        if damaged and not (self._states() or self._final_models()):
            raise CheckpointError(
                f"All states of this run are damaged ({damaged[-1]}): delete {self.folder} to start it again."
            )

    @property
    def _identity_file(self) -> Path:
        return self.folder / "run.json"

    def _check_identity(self, mine: dict[str, Any]) -> None:
        """Compare this run with the one in its folder, if there is one."""
        path = self._identity_file
        if not path.is_file():
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                f"{key}: {theirs[key]!r} there, {mine[key]!r} now"
                for key in mine
                if key != "config" and theirs[key] != mine[key]
            ]
            changed += differences(theirs["config"], mine["config"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged ({error!r}): delete the folder {self.folder} to run anew.") from error
        if changed:
            raise ConfigError(
                f"{self.folder} holds a run with other settings (there != now): {'; '.join(changed)}. "
                "Give another --output, or delete that folder."
            )

    def _train_and_test(self, cfg: Any) -> records.RunRecord:
        """Train (or resume) and test the base classes, test the new classes with the same prompts."""
        from cpt_plugin import toolkit

        with run_log(self.folder):
            LOG.info(f"** Config **\n{cfg}\n** System info **\n{toolkit.collect_env_info()}\n", extra=FILE_ONLY)
            toolkit.set_random_seed(self.seed)
            trainer = toolkit.build_trainer(cfg)
            check_evaluable_on_new_classes(trainer)
            LOG.info(
                f"Toolkit: {toolkit.NAME}; {self.method.name}, seed {self.seed}, "
                f"{len(trainer.dm.dataset.train_x)} training images of the base classes"
            )
            clock = time.monotonic()
            timings = {"train": self._train(trainer)}
            base = class_results(trainer)
        with run_log(self.folder / "new"):
            toolkit.set_random_seed(self.seed)
            new_trainer = toolkit.build_trainer(self.config("new"))
            if self.method.prompt_learner != ZEROSHOT:
                new_trainer.load_model(str(self.models), epoch=final_epoch(cfg))
            LOG.info("Testing the new classes")
            new_trainer.test()
        timings["total"] = time.monotonic() - clock
        return self._record(trainer, base, new_trainer, timings)

    def _train(self, trainer: Any) -> float:
        """Train and test, or test the prompts of another run; returns the seconds that training took.

        Raises:
            CheckpointError: the prompts in that run's folder are not those of its record.
        """
        clock = time.monotonic()
        if self.trained is None:
            trainer.train()
            return getattr(trainer, "train_seconds", time.monotonic() - clock)
        record = records.load(self.trained.record_file)
        LOG.info(f"Evaluating the prompts in {self.models}")
        trainer.load_model(str(self.models), epoch=final_epoch(trainer.cfg))
        if trainer.prompts_hash != record.prompts_hash:
            raise CheckpointError(
                f"The prompts in {self.models} are not those of its record: delete that folder, and give the command "
                "again."
            )
        trainer.test()
        return record.timings["train"]

    def _record(
        self, trainer: Any, base: list[records.ClassResult], new_trainer: Any, timings: dict[str, float]
    ) -> records.RunRecord:
        from cpt_plugin import toolkit
        from cpt_plugin.long_tail import class_ranks

        a, cfg, dm = self.arguments, trainer.cfg, trainer.dm
        new = class_results(new_trainer)
        tested = [(c.correct, c.total) for c in base]
        ranks = class_ranks(dm.num_classes, cfg.DATASET.CLASS_ORDER, self.seed)
        counts = [n for n in dm.class_counts if n]
        config = identity_of(self.method, cfg)
        trained = None if self.trained is None else records.load(self.trained.record_file)
        return records.RunRecord(
            method=self.method.name,
            prompt_learner=self.method.prompt_learner,
            regularizers=self.method.regularizers,
            dataset=f"{a.dataset} ({label})" if (label := getattr(dm.dataset, "split_label", "")) else a.dataset,
            tau=a.tau,
            realized_tau=min(counts) / max(counts),
            class_order=cfg.DATASET.CLASS_ORDER,
            shots=a.shots,
            seed=self.seed,
            protocol=records.BASE_TO_NEW,
            toolkit=toolkit.NAME,
            backbone=records.Backbone(trainer.clip.name, trainer.clip.digest),
            accuracy=records.Accuracy.from_classes(base, new),
            groups=group_accuracies(tested, dm.class_counts, ranks),
            worst_class=worst_class([c.name for c in base], tested),
            per_class=records.ClassResults(tuple(base), tuple(new)),
            losses=last_epoch_means(trainer) if trained is None else trained.losses,
            history=tuple(getattr(trainer, "history", ())) if trained is None else trained.history,
            prompts_hash=getattr(trainer, "prompts_hash", ""),
            timings=timings,
            config=config,
            config_hash=config_hash(config),
            split_hash=records.SplitHashes(dm.split_hash, new_trainer.dm.split_hash),
            cluster_hash=getattr(trainer, "cluster_hash", ""),
            versions=versions(),
            git=git_state(ROOT),
            device=str(trainer.device),
            precision=trainer.precision.name,
            created=utc_now(),
        )


def final_epoch(cfg: Any) -> int | None:
    """The epoch whose prompts are tested; None for the best one on validation images."""
    return None if cfg.TEST.FINAL_MODEL == "best_val" else cfg.OPTIM.MAX_EPOCH


def check_evaluable_on_new_classes(trainer: Any) -> None:
    """Raise ConfigError, before anything is trained, for contexts that only the base classes have."""
    if getattr(getattr(trainer.model, "prompt_learner", None), "class_specific", False):
        raise ConfigError(
            "Class-specific contexts (TRAINER.COOP.CSC True) cannot be evaluated on new classes: set it to False, "
            "or train and evaluate all classes with train.py."
        )


def class_results(trainer: Any) -> list[records.ClassResult]:
    """(name, correct, total) a class from the trainer's last evaluation, in label order."""
    names = trainer.dm.dataset.classnames
    counts = trainer.evaluator.class_counts()
    return [records.ClassResult(name, *pair) for name, pair in zip(names, counts, strict=True)]


def last_epoch_means(trainer: Any) -> dict[str, float]:
    """Mean of the loss and its parts over the last training epoch; empty for zero-shot."""
    return {name: meter.avg for name, meter in trainer.losses.meters.items() if name.startswith("loss")}


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Send the log to ``folder/log.txt`` for the length of a run; to the console too unless a bar is shown there."""
    from cpt_plugin import toolkit

    handle = toolkit.setup_logger(str(folder), quiet=sys.stderr.isatty())
    try:
        yield
    finally:
        if handle is not None:
            handle.close()
