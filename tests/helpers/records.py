"""Synthetic records."""

from __future__ import annotations

import dataclasses
from typing import Any

from cpt_plugin.config_identity import config_hash
from cpt_plugin.long_tail import shot_counts
from cpt_plugin.results.groups import FEW_SHOT_BANDS, group_accuracies, worst_class
from cpt_plugin.results.record import (
    Backbone,
    ClassResult,
    Evaluation,
    GitState,
    RunRecord,
)


def predicted(correct: tuple[int, ...]) -> tuple[int, ...]:
    """Every image of a class (10 each) that is not taken for it is taken for the first class."""
    return 10 * len(correct) - sum(correct[1:]), *correct[1:]


def make_record(
    name: str = "maple",
    seed: int = 1,
    *,
    correct: tuple[int, ...] = (9, 8, 7, 6, 5, 4),
    new_correct: tuple[int, ...] = (6, 5, 4),
    tau: float = 0.25,
    config: dict[str, Any] | None = None,
    accuracy: tuple[float, float] | None = None,
    split_hash: tuple[str, str] | None = None,
    counts: tuple[int, ...] = (),
    targets: dict[str, int] | None = None,
    **changes: Any,
) -> RunRecord:
    """Build a valid record of the method ``name``; keyword arguments replace fields.

    counts: training images by class, by default those of tau; accuracy, split_hash: of base and new, whatever the
    classes give; targets: correct of 10 images of each target of a record of a transfer protocol.
    """
    learner, *added = name.split("_")
    base = tuple(ClassResult(f"base {index}", hits, 10) for index, hits in enumerate(correct))
    new = tuple(ClassResult(f"new {index}", hits, 10) for index, hits in enumerate(new_correct))
    tested = [(result.correct, result.total) for result in base]
    counts = counts or tuple(shot_counts(len(base), tau))
    bands = changes.get("bands", FEW_SHOT_BANDS)
    full_config = {"SEED": seed, "OUTPUT_DIR": f"output/seed{seed}", "OPTIM.LR": 0.002, "OPTIM.NAME": "sgd"}
    full_config |= {"TRAINER.NAME": name, **(config or {})}
    dataset = changes.get("dataset", "shapes")
    hashes = split_hash or (f"base split {seed}", "new split")
    evaluations = {
        "base": Evaluation.of(dataset, "base", base, hashes[0], predicted(correct), 12.5),
        "new": Evaluation.of(dataset, "new", new, hashes[1]),
    }
    if accuracy:
        for part, value in zip(("base", "new"), accuracy, strict=True):
            evaluations[part] = dataclasses.replace(evaluations[part], accuracy=value)
    if changes.get("protocol") == "few_shot_all":
        evaluations = {"all": Evaluation.of(dataset, "all", base, hashes[0], predicted(correct), 12.5)}
    if targets:
        evaluations = {"source": Evaluation.of(dataset, "all", base, hashes[0])}
        for target, hits in targets.items():
            evaluations[target] = Evaluation.of(target, "all", (ClassResult("one", hits, 10),), f"{target} split")
    values: dict[str, Any] = {
        "method": name,
        "prompt_learner": learner,
        "regularizers": tuple(added),
        "variant": "",
        "dataset": "shapes",
        "tau": tau,
        "realized_tau": min(counts) / max(counts),
        "class_counts": counts,
        "counts_from": "data",
        "bands": bands,
        "class_order": "label",
        "shots": 16,
        "seed": seed,
        "protocol": "base_to_new",
        "toolkit": "embedded",
        "backbone": Backbone("micro", "ab" * 32),
        "evaluations": evaluations,
        "groups": group_accuracies(tested, counts, bands),
        "worst_class": worst_class([result.name for result in base], tested),
        "losses": {"ce": 0.5} | dict.fromkeys(added, 0.25),
        "history": ({"loss": 0.7}, {"loss": 0.5}),
        "selection": "last epoch",
        "parts_without_gradient": (),
        "prompts_hash": "cd" * 32,
        "timings": {"train": 12.5},
        "config": full_config,
        "config_hash": config_hash(full_config),
        "cluster_hash": "",
        "versions": {"torch": "2.13.0"},
        "git": GitState("0" * 40, False),
        "device": "cpu",
        "precision": "fp32",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return RunRecord(**(values | changes))
