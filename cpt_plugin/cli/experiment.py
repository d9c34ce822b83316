"""One run of a protocol: train, evaluate on the classes trained on and on the others, write the record."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin.atomic import atomic_write_json
from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.contents import Contents
from cpt_plugin.cli.identity import RunData, check_identity
from cpt_plugin.cli.recording import check_evaluable_on_other_classes, evaluation, make_record
from cpt_plugin.cli.settings import assemble, check_class_names, check_settings, identity_of, reads
from cpt_plugin.config_identity import NAMED_KEYS, NEUTRAL_KEYS, variant_name
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from cpt_plugin.locking import only_process
from cpt_plugin.methods import ZEROSHOT, Method
from cpt_plugin.protocols import BASE_TO_NEW, CROSS_DATASET, FEW_SHOT_ALL, TRANSFER, Task, tasks
from cpt_plugin.results import record as records

LOG = logging.getLogger("cpt_plugin")
FILE_ONLY = {"file_only": True}
TRAININGS = {BASE_TO_NEW: "", FEW_SHOT_ALL: "-all"} | dict.fromkeys(TRANSFER, "-transfer")
"""What a protocol's training adds to the name of its folder."""


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
        """``<output>/<dataset>/<method>/tau<tau>[-all|-transfer][/<variant>]/seed<seed>``.

        In the place of ``tau<tau>`` stands ``natural`` where all images train. Colons of a world's name become dashes.
        Cross-dataset and domain generalization share ``-transfer``.
        """
        a = self.arguments
        training = f"{a.tail_name}{TRAININGS[a.protocol]}"
        return a.folder / self.method.name / training / self.variant / f"seed{self.seed}"

    @property
    def variant(self) -> str:
        """``KEY=VALUE`` of the command's pairs that can change this run, when the command wants them in the name."""
        if not self.arguments.variant:
            return ""
        unnamed = NEUTRAL_KEYS - NAMED_KEYS
        pairs = self.arguments.pairs.items()
        return variant_name({k: value for k, value in pairs if self.reads(k) and k not in unnamed})

    @property
    def record_file(self) -> Path:
        protocol = self.arguments.protocol
        return self.folder / ("record.json" if protocol == BASE_TO_NEW else f"record-{protocol}.json")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The evaluations of the protocol, the classes trained on first."""
        return tasks(self.arguments.protocol, self.arguments.dataset)

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
    def with_earlier(self) -> list[Experiment]:
        """The runs that this one starts from, and theirs, the earliest first; then this one."""
        before = [one for run in (self.first_stage, self.trained) if run is not None for one in run.with_earlier]
        return list(dict.fromkeys([*before, self]))

    @property
    def models(self) -> Path:
        """The folder with the prompts that are tested: this run's, or that of :attr:`trained`."""
        return self.folder if self.trained is None else self.trained.folder

    @property
    def is_claimed(self) -> bool:
        """Whether the folder holds a run, this one or another, finished or not."""
        return self._identity_file.is_file()

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds an unfinished run that this one will continue."""
        if not self.folder.is_dir() or self.record_file.is_file():
            return False
        return self._states() != [] or self._final_models() != []

    def reads(self, key: str) -> bool:
        """Whether this run's result can depend on a configuration key."""
        return reads(self.method, key)

    def check(self) -> None:
        """Raise ConfigError for settings that this run would refuse, as far as can be told without data."""
        check_settings(self.method, self.config())

    def check_data(self, seen: dict[str, Contents]) -> None:
        """Look at the images and class names of all evaluations before anything is trained; not for a finished run.

        seen: what other runs of the command have seen already; it is added to.

        Raises:
            DataError: a part or a class that is needed has no images.
            ConfigError: class names that do not fit into the method's texts.
        """
        if self.record_file.is_file():
            return
        for task in self.tasks:
            cfg, training = self.config(task.name), task == self.tasks[0]
            with run_log():
                contents = seen.get(place := f"{task.dataset} {task.classes}") or Contents.of(cfg)
            seen[place] = contents
            trained = training and self.method.prompt_learner != ZEROSHOT
            contents.check(task.dataset, task.classes, trained=trained, tested=True)
            check_class_names(self.method, cfg, contents.names, training)

    def check_folder(self, by_seed: Collection[str] = (), config: dict[str, Any] | None = None) -> None:
        """Raise ConfigError where this run's folder holds a run of other settings, as far as can be told without data.

        by_seed: settings that do not count; config: those of this run (:func:`identity_of`) where they are known.
        Of what a first stage or other prompts decide, only the hash of a finished one is compared.
        """
        if not self.is_claimed:
            return
        first = self.first_stage
        unknown = set() if first is None or first.record_file.is_file() else {"TRAINER.DPC.STAGE_ONE_HASH"}
        identity = self._identity(config or identity_of(self.method, self.config()))
        check_identity(self._identity_file, identity, self._nameable, {*NEUTRAL_KEYS, *unknown, *by_seed})

    def _identity(self, config: dict[str, Any]) -> dict[str, Any]:
        """What ``run.json`` says of the engine and the settings, and of the prompts evaluated, once they are there."""
        from cpt_plugin import toolkit

        identity: dict[str, Any] = {"toolkit": toolkit.NAME, "config": config}
        if self.trained is not None and self.trained.record_file.is_file():
            identity["prompts_hash"] = records.load(self.trained.record_file).prompts_hash
        return identity

    def execute(self) -> Outcome:
        """Run, resume or skip; returns the record that lies in ``folder`` afterwards.

        While another process works on this run, wait for it. A finished one needs no place that can be written.

        Raises:
            ConfigError: the folder holds a run with another configuration or other images (keys named).
            DataError: the folder cannot be written.
            CPTError: anything else that ends the run; what is finished stays on disk.
        """
        started = time.monotonic()
        self.config()
        for before in (self.first_stage, self.trained):
            if before is not None:
                before.execute()
        try:
            with self._held():
                status, record = self._execute()
        except OSError as error:
            place = f"{error.filename or self.folder}: {error.strerror or error}"
            raise DataError(f"{place}; results go below --output {self.arguments.output}") from error
        return Outcome(record, status, time.monotonic() - started)

    def config(self, name: str = "") -> Any:
        """Frozen configuration of the training, or of one of the other evaluations; resumes what is there.

        After a first stage it names that stage's prompts, by their folder for training and by their hash always.
        DPC's mixture for new classes is the one for those of another data set as well.
        """
        by_name = {task.name: task for task in self.tasks}
        task = by_name[name] if name else self.tasks[0]
        training = task == self.tasks[0]
        cfg = assemble(self.method, self.seed, self.arguments, self.folder, task, training)
        first = self.first_stage
        if first is not None and first.record_file.is_file():
            cfg.TRAINER.DPC.STAGE_ONE = str(first.folder) if training else ""
            cfg.TRAINER.DPC.STAGE_ONE_HASH = records.load(first.record_file).prompts_hash
        if self.method.dpc and self.arguments.protocol == CROSS_DATASET and not training:
            cfg.TRAINER.DPC.WEIGHT_BASE, cfg.TRAINER.DPC.BASE_EVAL = cfg.TRAINER.DPC.WEIGHT_NEW, "mix"
        if training and (self._states() or self._final_models()):
            cfg.RESUME = str(self.folder)
        cfg.freeze()
        return cfg

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder for this process; where it cannot be written, a finished run there is read all the same."""
        with ExitStack() as stack:
            try:
                stack.enter_context(only_process(self.folder))
            except OSError:
                if not self.record_file.is_file():
                    raise
            yield

    def _execute(self) -> tuple[str, records.RunRecord]:
        with run_log():
            if not self.record_file.is_file():
                self._set_damaged_models_aside()
            cfg = self.config()
            data = RunData.of(cfg)
        identity = self._identity(identity_of(self.method, cfg))
        check_identity(self._identity_file, identity, self._nameable, data=data)
        if self.record_file.is_file():
            return "finished before", self._finished()
        atomic_write_json(self._identity_file, {**data.identity, **identity})
        try:
            record = self._train_and_test(cfg)
        except BaseException:
            if not (self._states() or self._final_models() or any(self.folder.glob("record*.json"))):
                self._identity_file.unlink(missing_ok=True)
            raise
        records.save(record, self.record_file)
        return ("resumed" if cfg.RESUME else "new"), record

    def _finished(self) -> records.RunRecord:
        """The record in the folder, which must be of this protocol's evaluations, on the images that are there now.

        Those trained on were compared before.
        """
        record = records.load(self.record_file)
        wanted = {task.name for task in self.tasks}
        if changed := sorted(wanted ^ record.evaluations.keys()):
            raise ConfigError(
                f"{self.record_file} holds other evaluations than {self.arguments.protocol} has now "
                f"({', '.join(changed)}): delete that file, and the trained prompts are evaluated again"
            )
        with run_log():
            changes = {
                name: RunData.of(self.config(name)).change_since(was.split_hash, [one.name for one in was.per_class])
                for name, was in record.evaluations.items()
                if name != self.tasks[0].name
            }
        if said := "; ".join(f"{name}: {change}" for name, change in changes.items() if change):
            raise ConfigError(
                f"{self.record_file} is of other data than there are now: {said}. Give another --output, or delete "
                "that file, and the trained prompts are evaluated again"
            )
        return record

    def _states(self) -> list[Path]:
        from cpt_plugin.toolkit.embedded.resume import ResumeFolder

        return ResumeFolder(self.folder).newest_first()

    def _final_models(self) -> list[Path]:
        """Checkpoints of the last epoch; whatever states there are tell more, so none counts beside them."""
        if self._states():
            return []
        last = assemble(self.method, self.seed, self.arguments, self.folder, self.tasks[0], True).OPTIM.MAX_EPOCH
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

    @property
    def _nameable(self) -> Sequence[str]:
        """Settings that ``--variant`` would take into the folder's name."""
        return () if self.arguments.variant else self.arguments.opts[::2]

    def _train_and_test(self, cfg: Any) -> records.RunRecord:
        """Train (or resume) and test the classes trained on, test the others with the same prompts."""
        from cpt_plugin import toolkit

        trained, *others = self.tasks
        with run_log(self.folder):
            LOG.info(f"** Config **\n{cfg}\n** System info **\n{toolkit.collect_env_info()}\n", extra=FILE_ONLY)
            toolkit.set_random_seed(self.seed)
            trainer = toolkit.build_trainer(cfg)
            if others:
                check_evaluable_on_other_classes(trainer)
            LOG.info(
                f"Toolkit: {toolkit.NAME}; {self.method.name}, seed {self.seed}, "
                f"{len(trainer.dm.dataset.train_x)} training images of {trained.classes} classes"
            )
            clock = time.monotonic()
            timings = {"train": self._train(trainer)}
            evaluations = {trained.name: evaluation(trained, trainer)}
        for task in others:
            with run_log(self.folder / task.folder):
                toolkit.set_random_seed(self.seed)
                other = toolkit.build_trainer(self.config(task.name))
                if self.method.prompt_learner != ZEROSHOT:
                    other.load_model(str(self.models), epoch=final_epoch(cfg))
                LOG.info(f"Testing {task.classes} classes of {task.dataset}")
                other.test()
                evaluations[task.name] = evaluation(task, other)
        timings["total"] = time.monotonic() - clock
        return make_record(self, trainer, evaluations, timings)

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


def final_epoch(cfg: Any) -> int | None:
    """The epoch whose prompts are tested; None for the best one on validation images."""
    return None if cfg.TEST.FINAL_MODEL == "best_val" else cfg.OPTIM.MAX_EPOCH


@contextmanager
def run_log(folder: Path | None = None) -> Iterator[None]:
    """Send the log to ``folder/log.txt`` for the length of a run; to the console too unless a bar is shown there.

    Without a folder, before a run, only warnings are shown.
    """
    from cpt_plugin import toolkit

    handle = toolkit.setup_logger(str(folder or ""), quiet=folder is None or sys.stderr.isatty())
    try:
        yield
    finally:
        if handle is not None:
            handle.close()
