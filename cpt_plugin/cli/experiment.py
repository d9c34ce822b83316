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

from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.cli.arguments import RunArguments
from cpt_plugin.cli.repository import ROOT, config_file, default_cfg, load_trainers
from cpt_plugin.config_identity import config_hash, differences, hashed_part
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.methods import ZEROSHOT, Method, is_embedded
from cpt_plugin.results import record as records
from cpt_plugin.results.groups import group_accuracies, worst_class
from cpt_plugin.results.provenance import git_state, utc_now, versions

LOG = logging.getLogger("cpt_plugin")
FALLBACK_BACKBONE = "vit_b16"


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
        return a.output / a.dataset.replace(":", "-") / self.method.name / f"tau{a.tau:g}" / f"seed{self.seed}"

    @property
    def record_file(self) -> Path:
        return self.folder / "record.json"

    def execute(self) -> Outcome:
        """Run, resume or skip; returns the record that lies in ``folder`` afterwards.

        Raises:
            ConfigError: the folder holds a run with another configuration or other images (keys named).
            CPTError: anything else that ends the run; what is finished stays on disk.
        """
        from cpt_plugin import toolkit

        started = time.monotonic()
        base_cfg = self.config("base")
        data = toolkit.DataManager(base_cfg)
        identity = {"toolkit": toolkit.NAME, "split_hash": data.split_hash, "config": hashed_part(base_cfg)}
        self._check_identity(identity)
        if self.record_file.is_file():
            return Outcome(records.load(self.record_file), "finished before", time.monotonic() - started)
        with run_log(self.folder):
            status, record = self._run(base_cfg, identity)
        records.save(record, self.record_file)
        return Outcome(record, status, time.monotonic() - started)

    def config(self, classes: str) -> Any:
        """Frozen configuration of this run for ``base`` or ``new`` classes."""
        from cpt_plugin.toolkit.embedded.config import merge_file, merge_list

        a = self.arguments
        cfg = default_cfg()
        dataset, _, world = a.dataset.partition(":")
        merge_file(cfg, config_file("datasets", dataset))
        merge_file(cfg, config_file("trainers", self._base_trainer(), self._backbone_config()))
        own = {
            "SEED": self.seed,
            "OUTPUT_DIR": str(self.folder),
            "DATASET.ROOT": str(a.root),
            "DATASET.NUM_SHOTS": a.shots,
            "DATASET.MAX_PER_CLASS": a.shots,
            "DATASET.IMBALANCE_TAU": a.tau,
            "DATASET.SUBSAMPLE_CLASSES": classes,
            "MODEL.BACKBONE.NAME": a.backbone,
            "TRAINER.NAME": load_trainers().trainer_name(self.method.prompt_learner, self.method.regularizers),
            "VERBOSE": False,
        }
        if is_embedded(a.dataset):
            own["DATASET.WORLD"] = world
        if a.epochs is not None:
            own["OPTIM.MAX_EPOCH"] = a.epochs
        merge_list(cfg, [part for pair in own.items() for part in pair])
        merge_list(cfg, a.opts)
        if classes == "base" and any(self.folder.glob("resume/state-*")):
            cfg.RESUME = str(self.folder)
        cfg.freeze()
        return cfg

    def _base_trainer(self) -> str:
        return load_trainers().trainer_name(self.method.prompt_learner)

    def _backbone_config(self) -> str:
        slug = self.arguments.backbone.lower().replace("/", "").replace("-", "_")
        folder = ROOT / "configs" / "trainers" / self._base_trainer()
        return slug if (folder / f"{slug}.yaml").is_file() else FALLBACK_BACKBONE

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
            changed = [f"{key}: {theirs[key]!r} there, {mine[key]!r} now"
                       for key in ("toolkit", "split_hash") if theirs[key] != mine[key]]
            changed += differences(theirs["config"], mine["config"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged ({error!r}): delete the folder {self.folder} to run anew.") from error
        if changed:
            raise ConfigError(
                f"{self.folder} holds a run with other settings (there != now): {'; '.join(changed)}. "
                "Give another --output, or delete that folder."
            )

    def _run(self, base_cfg: Any, identity: dict[str, Any]) -> tuple[str, records.RunRecord]:
        from cpt_plugin import toolkit

        toolkit.set_random_seed(self.seed)
        trainer = toolkit.build_trainer(base_cfg)
        check_evaluable_on_new_classes(trainer)
        atomic_write_text(self._identity_file, json.dumps(identity, indent=1, sort_keys=True) + "\n")
        LOG.info(f"Toolkit: {toolkit.NAME}; {self.method.name}, seed {self.seed}, "
                 f"{len(trainer.dm.dataset.train_x)} training images")
        clock = time.monotonic()
        status = self._train(trainer)
        timings = {"train": time.monotonic() - clock}
        base = class_results(trainer)
        clock = time.monotonic()
        toolkit.set_random_seed(self.seed)
        new_trainer = toolkit.build_trainer(self.config("new"))
        if self.method.prompt_learner != ZEROSHOT:
            new_trainer.load_model(str(self.folder), epoch=trainer.max_epoch)
        new_trainer.test()
        timings["new"] = time.monotonic() - clock
        return status, self._record(trainer, base, new_trainer, timings)

    def _train(self, trainer: Any) -> str:
        """Train and evaluate the base classes, or evaluate a training that was finished before."""
        final = self.folder / getattr(trainer, "registered_name", "") / f"model.pth.tar-{trainer.max_epoch}"
        if final.is_file():
            try:
                trainer.load_model(str(self.folder), epoch=trainer.max_epoch)
            except CheckpointError as error:
                LOG.warning(f"Training again: {error}")
                final.rename(final.with_name(final.name + ".corrupt"))
            else:
                LOG.info(f"Training was finished before ({final.name}); evaluating")
                trainer.test()
                return "resumed"
        trainer.train()
        return "resumed" if trainer.cfg.RESUME else "new"

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
        config = hashed_part(cfg)
        return records.RunRecord(
            method=self.method.name,
            prompt_learner=self.method.prompt_learner,
            regularizers=self.method.regularizers,
            dataset=a.dataset,
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
            losses=last_epoch_means(trainer),
            timings=timings,
            config=config,
            config_hash=config_hash(config),
            split_hash=records.SplitHashes(dm.split_hash, new_trainer.dm.split_hash),
            cluster_hash=getattr(trainer, "cluster_hash", ""),
            versions=versions(),
            git=git_state(ROOT),
            device=str(trainer.device),
            precision=str(trainer.precision.dtype).removeprefix("torch."),
            created=utc_now(),
        )


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
    """Mean of every logged quantity over the last training epoch; empty when nothing was trained now."""
    return {name: meter.avg for name, meter in trainer.losses.meters.items()}


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
