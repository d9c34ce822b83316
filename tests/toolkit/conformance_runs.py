"""Conformance cases of whole runs: zero-shot, training, resume, records."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpt_plugin import toolkit
from cpt_plugin.errors import CheckpointError
from tests.toolkit.conformance_setup import (
    EPOCHS,
    TRAINERS,
    case,
    command,
    config,
    log_text,
    results,
    train_lines,
)


@case
def zero_shot(folder: Path) -> Any:
    """Results in the log with and without ``--eval-only``, and the logits of every test image."""
    out = {}
    for which in ("base", "new"):
        tail = ("DATASET.SUBSAMPLE_CLASSES", which, "DATASET.IMBALANCE_TAU", 0.25)
        for words in ((), ("--eval-only", "--model-dir", "")):
            output = folder / toolkit.NAME / f"zero-shot-{which}-{len(words)}"
            command(folder, "ZeroshotCLIP", output, *words, *tail)
            out[f"{which} {bool(words)}"] = results(log_text(output))
        trainer = toolkit.build_trainer(config(folder, *tail, "TRAINER.NAME", "ZeroshotCLIP"))
        seen: list[torch.Tensor] = []
        process = trainer.evaluator.process
        trainer.evaluator.process = lambda mo, gt, seen=seen, process=process: (seen.append(mo), process(mo, gt))
        accuracy = trainer.test()
        out[f"{which} logits"] = [accuracy, torch.cat(seen).tolist()]
    return out


def checkpoint_facts(folder: Path) -> dict[str, Any]:
    """Files of a trained model, and what the last one holds when nothing but plain values may be read."""
    model = next(path for path in folder.iterdir() if (path / "checkpoint").is_file())
    content = torch.load(model / f"model.pth.tar-{EPOCHS}", weights_only=True)
    return {
        "files": sorted(str(path.relative_to(folder)) for path in model.iterdir()),
        "pointer": (model / "checkpoint").read_text(),
        "has": sorted({"state_dict", "epoch", "optimizer", "scheduler", "val_result"} & content.keys()),
        "epoch": content["epoch"],
        "prompts": {name: list(value.shape) for name, value in content["state_dict"].items()},
    }


@case
def training(folder: Path) -> Any:
    """Every trainer: log lines, checkpoints, and evaluation of base and new classes from them."""
    out = {}
    for trainer in TRAINERS:
        output = folder / toolkit.NAME / trainer
        command(folder, trainer, output, "DATASET.SUBSAMPLE_CLASSES", "base", "DATASET.IMBALANCE_TAU", 0.25,
                "DATASET.MAX_PER_CLASS", 8)  # fmt: skip
        text = log_text(output)
        lines = train_lines(text)
        evaluated = {}
        for which in ("base", "new"):
            place = folder / toolkit.NAME / f"{trainer}-{which}"
            command(folder, trainer, place, "--eval-only", "--model-dir", output, "--load-epoch", EPOCHS,
                    "DATASET.SUBSAMPLE_CLASSES", which)  # fmt: skip
            evaluated[which] = results(log_text(place))
        out[trainer] = {
            "lines": [[line["position"], line["names"], line["finite"], line["lr"]] for line in lines],
            "result": results(text),
            "said": [phrase in text for phrase in (f"Toolkit: {toolkit.NAME}", "long tail: tau 0.25",
                                                   "Finish training", "Deploy the last-epoch model")],
            "checkpoint": checkpoint_facts(output),
            "evaluated": evaluated,
        }  # fmt: skip
    return out


@case
def records(folder: Path) -> Any:
    """What the main job writes about a run, without measured values."""
    from cpt_plugin.cli.arguments import parse_arguments
    from cpt_plugin.cli.experiment import Experiment
    from cpt_plugin.methods import parse_method

    place = folder / toolkit.NAME / "job"
    arguments = parse_arguments(["coop_cpt", "shapes", "0.25", "--output", str(place), "--root", str(folder / "worlds"),
                       "--epochs", "1", "--shots", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "16"])  # fmt: skip
    out = {}
    for method in ("zeroshot", "coop_cpt", "coop", "coop_posthoc"):
        outcome = Experiment(parse_method(method), 1, arguments).execute()
        record = outcome.record
        out[method] = {
            "status": outcome.status,
            "toolkit": record.toolkit,
            "losses": sorted(record.losses),
            "trained on": [record.class_counts, record.selection],
            "hashes": [*(e.split_hash for e in record.evaluations.values()), record.cluster_hash],
            "accuracy": [record.accuracy.base, record.accuracy.new] if method == "zeroshot" else None,
            "totals": [[c.name, c.total] for e in record.evaluations.values() for c in e.per_class],
        }
    return out


@case
def resumed_rates(folder: Path) -> Any:
    """Rates in the log of an uninterrupted run, and of one stopped after two epochs and resumed."""
    whole, stopped = folder / toolkit.NAME / "whole", folder / toolkit.NAME / "stopped"
    command(folder, "CoOp", whole)
    cls = toolkit.TRAINER_REGISTRY.get("CoOp")
    original = cls.before_epoch

    class Stop(Exception):
        pass

    def stop_at_third(self: Any) -> None:
        original(self)
        if self.epoch == 2:
            raise Stop

    cls.before_epoch = stop_at_third
    with contextlib.suppress(Stop):
        command(folder, "CoOp", stopped)
    cls.before_epoch = original
    before = train_lines(log_text(stopped))
    command(folder, "CoOp", stopped, "--resume", stopped)
    after = train_lines(log_text(stopped))[len(before) :]
    shown = [[[line["position"][0], line["lr"]] for line in lines] for lines in (before, after)]
    return {"whole": [[line["position"][0], line["lr"]] for line in train_lines(log_text(whole))],
            "before": shown[0], "after": shown[1]}  # fmt: skip


@case
def other_toolkits_checkpoint(folder: Path) -> Any:
    """Evaluation of a run of the other toolkit; None where there is none yet."""
    other = folder / ({"dassl", "embedded"} - {toolkit.NAME}).pop() / "MaPLe"
    output = folder / toolkit.NAME / "of-other"
    if not other.is_dir():
        return None
    words = ("--eval-only", "--model-dir", other, "--load-epoch", EPOCHS)
    command(folder, "MaPLe", output, *words, "DATASET.SUBSAMPLE_CLASSES", "base")
    return results(log_text(output))


@case
def legacy_scheduler(folder: Path) -> Any:
    """Dassl only: rates after loading a scheduler that was stored as released Dassl stores it."""
    if toolkit.NAME != "dassl":
        return None
    c = config(folder, "OPTIM.MAX_EPOCH", 8).OPTIM
    rates: dict[str, list[float]] = {"whole": [], "resumed": []}
    path = folder / toolkit.NAME / "legacy.pt"
    optimizer = toolkit.build_optimizer(nn.Linear(2, 2), c)
    scheduler = toolkit.build_lr_scheduler(optimizer, c)
    for epoch in range(8):
        if epoch == 3:
            stored = {k: v for k, v in scheduler.__dict__.items() if k != "optimizer"}
            torch.save({"scheduler": stored, "optimizer": optimizer.state_dict()}, path)
        rates["whole"].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    optimizer = toolkit.build_optimizer(nn.Linear(2, 2), c)
    scheduler = toolkit.build_lr_scheduler(optimizer, c)
    content = torch.load(path, weights_only=False)
    optimizer.load_state_dict(content["optimizer"])
    scheduler.load_state_dict(content["scheduler"])
    for _ in range(3, 8):
        rates["resumed"].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    try:
        toolkit.load_checkpoint(str(path))
    except CheckpointError as error:
        return {**rates, "refused": str(error)}
    return rates
