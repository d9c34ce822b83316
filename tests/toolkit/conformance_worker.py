"""The conformance cases on the toolkit that ``CPT_TOOLKIT`` names; their outcomes go to a JSON file.

Usage: python conformance_worker.py FOLDER RESULT [CASE ...], where FOLDER holds what ``write_data`` wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import train
from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.config_identity import flatten
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.toolkit.compat import prepare_torchvision
from tests.helpers.tiny_clip import random_state

NAMES = ("ant", "red_bee", "cat", "dog", "tall elk", "fox", "gnu")
SIDE, CLIP_SIDE = 20, 16
COUNTS = {"train": 10, "val": 5, "test": 6}
FEW = ("train", 4, 3)  # this class has fewer images than shots
TRAINERS = ("CoOp", "CoOpCPT", "MaPLe", "MaPLeCPT")
EPOCHS = 4
LINE = re.compile(
    r"^epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\] time [\d.]+ \([\d.]+\) data [\d.]+ \([\d.]+\) "
    r"((?:\w+ \S+ \(\S+\) )+)lr (\S+) eta \d+:\d\d:\d\d$"
)
RESULT = re.compile(
    r"^=> result\n\* total: ([\d,]+)\n\* correct: ([\d,]+)\n\* accuracy: ([\d.]+)%\n\* error: ([\d.]+)%\n"
    r"\* macro_f1: ([\d.]+)%$",
    re.MULTILINE,
)
CASES: dict[str, Callable[[Path], Any]] = {}


def case(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    CASES[function.__name__] = function
    return function


def write_data(folder: Path) -> None:
    """Noisy images of 7 classes, tiny CLIP weights and two configuration files."""
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        (folder / "images" / part).mkdir(parents=True)
        for label in range(len(NAMES)):
            for i in range(FEW[2] if (part, label) == FEW[:2] else count):
                noise = rng.integers(0, 200, (SIDE + label, SIDE + 3, 3))
                noise[:, :, label % 3] += 50
                Image.fromarray(noise.astype(np.uint8)).save(folder / "images" / part / f"{label}_{i}.png")
    sizes = {"text_width": 64, "vision_width": 64, "text_layers": 3, "vision_layers": 3, "embed_dim": 32}
    torch.save(random_state(**sizes, resolution=CLIP_SIDE, patch=8, seed=0), folder / "clip.pt")
    (folder / "data.yaml").write_text(
        "DATASET:\n  NAME: ConformanceImages\nINPUT:\n  SIZE: (16, 16)\n  INTERPOLATION: bicubic\n"
        "  TRANSFORMS: [random_resized_crop, random_flip, normalize]\n"
        f"MODEL:\n  BACKBONE:\n    NAME: {folder / 'clip.pt'}\nOPTIM:\n  LR: 0.5\nTRAIN:\n  PRINT_FREQ: 7\n"
        "TEST:\n  EVALUATOR: Classification\n"
    )
    (folder / "method.yaml").write_text(
        "DATALOADER:\n  NUM_WORKERS: 0\n  TRAIN_X:\n    BATCH_SIZE: 4\nOPTIM:\n  NAME: sgd\n  LR: 0.02\n"
        f"  MAX_EPOCH: {EPOCHS}\n  LR_SCHEDULER: cosine\n  WARMUP_EPOCH: 1\n  WARMUP_TYPE: constant\n"
        "TRAIN:\n  PRINT_FREQ: 1\n  CHECKPOINT_FREQ: 1\nTRAINER:\n  COOP:\n    N_CTX: 3\n  MAPLE:\n"
        "    PROMPT_DEPTH: 2\n    CTX_INIT: ''\nCPT:\n  CLUSTER_SIZE: 2\nUSE_CUDA: False\n"
    )


def image_lists(folder: Path) -> list[list[Any]]:
    """Items of train, val and test, shuffled, so that labels appear in no order."""
    parts = []
    for part in COUNTS:
        paths = sorted((folder / "images" / part).iterdir())
        random.Random(part).shuffle(paths)
        labels = [int(path.name.split("_")[0]) for path in paths]
        parts.append([
            toolkit.Datum(impath=str(path), label=label, classname=NAMES[label])
            for path, label in zip(paths, labels, strict=True)
        ])  # fmt: skip
    return parts


def register_data() -> None:
    """Register the images as a data set; imports the repository's ``datasets`` first."""
    default_cfg()
    from datasets._few_shot import few_shot

    @toolkit.DATASET_REGISTRY.register()
    class ConformanceImages(toolkit.DatasetBase):
        dataset_dir = "images"

        def __init__(self, cfg: Any) -> None:
            parts = few_shot(*image_lists(Path(cfg.DATASET.ROOT)), cfg)
            super().__init__(train_x=parts[0], val=parts[1], test=parts[2])


def arguments(folder: Path, trainer: str, output: Path, *words: Any) -> list[str]:
    """Command line of train.py; options and their values come last."""
    flags = [w for w in words if str(w).startswith("--")]
    cut = words.index(flags[-1]) + 2 if flags else 0
    return [
        *("--root", str(folder), "--seed", "1", "--trainer", trainer, "--output-dir", str(output)),
        *("--dataset-config-file", str(folder / "data.yaml"), "--config-file", str(folder / "method.yaml")),
        *map(str, words[:cut]), "DATASET.NUM_SHOTS", "8", *map(str, words[cut:]),
    ]  # fmt: skip


def command(folder: Path, trainer: str, output: Path, *words: Any) -> None:
    train.main(train.parser().parse_args(arguments(folder, trainer, output, *words)))


def config(folder: Path, *words: Any) -> Any:
    return train.setup_cfg(train.parser().parse_args(arguments(folder, "CoOp", folder / "unused", *words)))


def log_text(output: Path) -> str:
    """All log files of an output folder, oldest first."""
    return "".join(path.read_text() for path in sorted(output.glob("log.txt*"), key=lambda p: p.stat().st_mtime))


def results(text: str) -> list[list[str]]:
    return [list(match.groups()) for match in RESULT.finditer(text)]


def train_lines(text: str) -> list[dict[str, Any]]:
    """Epoch, batch, named quantities and learning rate of every training line."""
    lines = []
    for line in text.splitlines():
        if match := LINE.match(line):
            epoch, epochs, batch, count, quantities, rate = match.groups()
            words = quantities.split()
            lines.append({
                "position": [int(epoch), int(epochs), int(batch), int(count)],
                "names": words[::3], "finite": all(np.isfinite(float(w)) for w in words[1::3]), "lr": rate,
            })  # fmt: skip
        elif line.startswith("epoch ["):
            lines.append({"unreadable": line})
    return lines


def rows(items: Sequence[Any]) -> list[list[Any]]:
    return [[Path(item.impath).name, item.label, item.classname, item.domain] for item in items]


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@case
def toolkit_facts(folder: Path) -> Any:
    return {
        "name": toolkit.NAME,
        "names": sorted(toolkit.__all__),
        "logging switched off up to": logging.root.manager.disable,
    }


@case
def registries(folder: Path) -> Any:
    registry = toolkit.Registry("THINGS")

    @registry.register()
    class Thing:
        pass

    registry.register(SimpleNamespace)
    refusals = 0
    for attempt in (lambda: registry.register(Thing), lambda: registry.get("Nothing")):
        try:
            attempt()
        except KeyError:
            refusals += 1
    registry.register(Thing, force=True)
    return {
        "class kept": registry.get("Thing") is Thing,
        "names": registry.registered_names(),
        "refusals": refusals,
        "trainers": sorted(set(toolkit.TRAINER_REGISTRY.registered_names()) & {*TRAINERS, "ZeroshotCLIP"}),
        "data sets": sorted(set(toolkit.DATASET_REGISTRY.registered_names()) & {"Shapes", "EuroSAT"}),
        "evaluators": toolkit.EVALUATOR_REGISTRY.registered_names(),
    }


@case
def default_keys(folder: Path) -> Any:
    return flatten(toolkit.get_cfg_default())


@case
def merge_order(folder: Path) -> Any:
    """LR and PRINT_FREQ are in the data set's file, the method's file, and the options."""
    chosen = (
        *("OPTIM.LR", "TRAIN.PRINT_FREQ", "OPTIM.MAX_EPOCH", "MODEL.BACKBONE.NAME", "INPUT.TRANSFORMS"),
        *("TRAINER.NAME", "SEED", "TRAINER.COOP.N_CTX", "CPT.WEIGHT_ETF", "DATASET.NUM_SHOTS"),
    )
    plain = flatten(config(folder)) | {"MODEL.BACKBONE.NAME": "file"}
    given = flatten(config(folder, "--backbone", "other", "OPTIM.LR", "1", "TRAINER.COOP.N_CTX", 5))
    refused = []
    for words in (("OPTIM.LRR", 1), ("OPTIM.LR", "fast"), ("OPTIM.LR",)):
        try:
            config(folder, *words)
        except ConfigError as error:
            refused.append(str(error))
    return [[c[key] for key in chosen] for c in (plain, given)] + [refused]


@case
def learning_rates(folder: Path) -> Any:
    """Rates of every epoch, as optimizer and scheduler give them."""
    settings = [
        {"LR_SCHEDULER": schedule, "WARMUP_EPOCH": warm, "WARMUP_TYPE": kind, "MAX_EPOCH": epochs}
        for epochs in (5, 20)
        for schedule in ("cosine", "single_step", "multi_step")
        for warm, kind in ((-1, "linear"), (1, "constant"), (3, "constant"), (3, "linear"))
    ]
    out = {}
    for values in settings:
        c = toolkit.get_cfg_default().OPTIM
        for key, value in values.items():
            c[key] = value
        c.NAME, c.LR = "sgd", 0.002
        c.STEPSIZE = (2, 4) if values["LR_SCHEDULER"] == "multi_step" else (3,)
        optimizer = toolkit.build_optimizer(nn.Linear(2, 2), c)
        scheduler = toolkit.build_lr_scheduler(optimizer, c)
        rates = []
        for _ in range(values["MAX_EPOCH"]):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        out[json.dumps(values)] = rates
    return out


@case
def optimizers(folder: Path) -> Any:
    """One step of every optimizer from the same weights and gradients."""
    out = {}
    for name in ("sgd", "adam", "amsgrad", "adamw", "rmsprop"):
        c = toolkit.get_cfg_default().OPTIM
        c.NAME, c.LR = name, 0.01
        layer = nn.Linear(3, 1)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        optimizer = toolkit.build_optimizer(layer, c)
        for _ in range(3):
            optimizer.zero_grad()
            (layer.weight**3).sum().backward()
            optimizer.step()
        out[name] = layer.weight.tolist()
    return out


@case
def few_shot_draws(folder: Path) -> Any:
    """Lists of our data sets, and those of the toolkit's own draw under a global seed."""
    from datasets._few_shot import few_shot

    parts = image_lists(folder)
    owner = toolkit.DatasetBase.__new__(toolkit.DatasetBase)
    draw = getattr(owner, "generate_fewshot_dataset", toolkit.generate_fewshot_dataset)
    out = {}
    for seed in (0, 1, 2):
        cfg = config(folder, "SEED", seed)
        random.seed(seed)
        out[f"toolkit, seed {seed}"] = [
            rows(draw(part, num_shots=shots)) for part, shots in zip(parts[:2], (8, 4), strict=True)
        ]
        for which in ("all", "base", "new"):
            cfg = config(folder, "SEED", seed, "DATASET.SUBSAMPLE_CLASSES", which)
            out[f"{which}, seed {seed}"] = [rows(part) for part in few_shot(*parts, cfg)]
    return out


@case
def long_tails(folder: Path) -> Any:
    out = {}
    for which in ("all", "base", "new"):
        for tau, order in ((0.25, "label"), (0.06, "random"), (1.0, "label")):
            cfg = config(folder, "DATASET.SUBSAMPLE_CLASSES", which, "DATASET.IMBALANCE_TAU", tau,
                         "DATASET.CLASS_ORDER", order, "DATASET.MAX_PER_CLASS", 8)  # fmt: skip
            data = toolkit.DataManager(cfg)
            lists = [rows(part) for part in (data.dataset.train_x, data.dataset.val, data.dataset.test)]
            out[f"{which} {tau} {order}"] = {"lists": lists, "classes": data.num_classes,
                                             "names": data.dataset.classnames}  # fmt: skip
    return out


@case
def transforms(folder: Path) -> Any:
    """Bits of transformed images, the random ones from the same torch seed."""
    prepare_torchvision()
    if toolkit.NAME == "dassl":
        from dassl.data.transforms import build_transform
    else:
        from cpt_plugin.toolkit.embedded.transforms import build_transform
    image = Image.open(folder / "images" / "train" / "5_0.png").convert("RGB")
    out = {}
    for chosen in (
        ("random_resized_crop", "random_flip", "normalize"),
        ("random_crop", "normalize"),
        ("random_flip", "colorjitter", "randomgrayscale", "normalize"),
        (),
    ):
        for interpolation in ("bicubic", "bilinear"):
            cfg = config(folder, "INPUT.TRANSFORMS", chosen, "INPUT.INTERPOLATION", interpolation)
            for is_train in (True, False):
                torch.manual_seed(4)
                out[f"{chosen} {interpolation} {is_train}"] = digest(build_transform(cfg, is_train)(image))
    return out


@case
def evaluator(folder: Path) -> Any:
    """Results and log text of the same logits."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (50,), generator=generator)
    logits = torch.randn(50, 5, generator=generator) + 2 * nn.functional.one_hot(labels, 5)
    cfg = config(folder, "TEST.PER_CLASS_RESULT", True)
    judge = toolkit.build_evaluator(cfg, lab2cname=dict(enumerate(NAMES)))
    output = folder / toolkit.NAME / "evaluator"
    handle = toolkit.setup_logger(str(output))
    judge.reset()
    for part in range(0, 50, 20):
        judge.process(logits[part : part + 20], labels[part : part + 20])
    outcome = judge.evaluate()
    handle.close()
    accuracy = float(toolkit.compute_accuracy(logits, labels)[0])
    return {"results": list(outcome.items()), "text": log_text(output), "accuracy": accuracy}


@case
def global_seed(folder: Path) -> Any:
    toolkit.set_random_seed(7)
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


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
    try:
        command(folder, "MaPLe", output, *words, "DATASET.SUBSAMPLE_CLASSES", "base")
    except CheckpointError as error:
        return str(error)
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


def main(folder: str, result: str, *chosen: str) -> None:
    register_data()
    outcomes = {}
    for name in chosen or CASES:
        try:
            outcomes[name] = CASES[name](Path(folder))
        except Exception:
            outcomes[name] = {"error": traceback.format_exc()}
    Path(result).write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
