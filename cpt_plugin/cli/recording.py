"""From a trained and tested trainer to the record of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cpt_plugin.cli.repository import ROOT
from cpt_plugin.cli.settings import identity_of
from cpt_plugin.config_identity import config_hash
from cpt_plugin.errors import ConfigError
from cpt_plugin.long_tail import realized_tau
from cpt_plugin.protocols import FEW_SHOT_ALL, Task, plain_dataset
from cpt_plugin.results import record as records
from cpt_plugin.results.groups import FEW_SHOT_BANDS, group_accuracies, worst_class
from cpt_plugin.results.older import FROM_DATA
from cpt_plugin.results.provenance import git_state, utc_now, versions

if TYPE_CHECKING:
    from cpt_plugin.cli.experiment import Experiment


def make_record(
    run: Experiment, trainer: Any, evaluations: dict[str, records.Evaluation], timings: dict[str, float]
) -> records.RunRecord:
    """The record of a finished run; ``trainer`` is the one that was trained, or that loaded ``run.trained``'s prompts.

    How the training went is then told as in the record of that run.
    """
    from cpt_plugin import toolkit

    a, cfg, dm = run.arguments, trainer.cfg, trainer.dm
    tested = evaluations[run.tasks[0].name]
    bands = getattr(dm.dataset, "bands", FEW_SHOT_BANDS)
    trained = None if run.trained is None else records.load(run.trained.record_file)
    told_by: Any = trained or trainer
    config = identity_of(run.method, cfg)
    return records.RunRecord(
        method=run.method.name,
        prompt_learner=run.method.prompt_learner,
        regularizers=run.method.parts,
        variant=run.variant,
        dataset=_labelled(a.dataset, trainer, evaluations),
        tau=a.tau,
        realized_tau=realized_tau(dm.class_counts),
        class_counts=tuple(dm.class_counts),
        counts_from=FROM_DATA,
        bands=bands,
        class_order=cfg.DATASET.CLASS_ORDER,
        shots=a.shots,
        seed=run.seed,
        protocol=a.protocol,
        toolkit=toolkit.NAME,
        backbone=records.Backbone(trainer.clip.name, trainer.clip.digest),
        evaluations=evaluations,
        groups=group_accuracies(tested.tested, dm.class_counts, bands),
        worst_class=worst_class([c.name for c in tested.per_class], tested.tested),
        losses=last_epoch_means(trainer) if trained is None else trained.losses,
        history=tuple(getattr(told_by, "history", ())),
        selection=getattr(told_by, "selection", ""),
        parts_without_gradient=tuple(getattr(told_by, "parts_without_gradient", ())),
        prompts_hash=getattr(trainer, "prompts_hash", ""),
        timings=timings,
        config=config,
        config_hash=config_hash(config),
        cluster_hash=getattr(trainer, "cluster_hash", ""),
        versions=versions(),
        git=git_state(ROOT),
        device=str(trainer.device),
        precision=trainer.precision.name,
        created=utc_now(),
    )


def _labelled(dataset: str, trainer: Any, evaluations: Mapping[str, records.Evaluation]) -> str:
    """A data set's name, with what tells it, or a target that it was tested on, from the published one.

    Tables show runs on data that are divided or complete in another way apart from those on the published data.
    """
    targets = [one.dataset for one in evaluations.values() if one.dataset != plain_dataset(one.dataset) != dataset]
    labels = [*filter(None, [getattr(trainer.dm.dataset, "split_label", "")]), *sorted(targets)]
    return f"{dataset} ({', '.join(labels)})" if labels else dataset


def check_evaluable_on_other_classes(trainer: Any) -> None:
    """Raise ConfigError, before anything is trained, for contexts that only the classes trained on have."""
    if getattr(getattr(trainer.model, "prompt_learner", None), "class_specific", False):
        raise ConfigError(
            "Class-specific contexts (TRAINER.COOP.CSC True) cannot be evaluated on other classes: set it to False, "
            f"or train and evaluate all classes (--protocol {FEW_SHOT_ALL})."
        )


def evaluation(task: Task, trainer: Any) -> records.Evaluation:
    """What a trainer's last evaluation came to."""
    found = trainer.evaluator
    return records.Evaluation.of(
        _labelled(task.dataset, trainer, {}),
        task.classes,
        class_results(trainer),
        trainer.dm.split_hash,
        found.predicted_counts(),
        found.calibration_error(),
    )


def class_results(trainer: Any) -> list[records.ClassResult]:
    """(name, correct, total) a class from the trainer's last evaluation, in label order."""
    names = trainer.dm.dataset.classnames
    counts = trainer.evaluator.class_counts()
    return [records.ClassResult(name, *pair) for name, pair in zip(names, counts, strict=True)]


def last_epoch_means(trainer: Any) -> dict[str, float]:
    """Mean of the loss and its parts over the last training epoch; empty for zero-shot."""
    return {name: meter.avg for name, meter in trainer.losses.meters.items() if name.startswith("loss")}
