"""Conformance cases of the parts of a toolkit."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from cpt_plugin import toolkit
from cpt_plugin.config_identity import flatten
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.compat import prepare_torchvision
from tests.toolkit.conformance_setup import (
    NAMES,
    TRAINERS,
    case,
    config,
    digest,
    image_lists,
    log_text,
    rows,
)


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
    given = flatten(config(folder, "--backbone", "RN101", "OPTIM.LR", "1", "TRAINER.COOP.N_CTX", 5))
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
        {
            "LR_SCHEDULER": schedule, "WARMUP_EPOCH": warm, "WARMUP_TYPE": kind, "MAX_EPOCH": epochs,
            "WARMUP_RECOUNT": recount,
        }
        for epochs in (5, 20)
        for schedule in ("cosine", "single_step", "multi_step")
        for warm, kind in ((-1, "linear"), (1, "constant"), (3, "constant"), (3, "linear"))
        for recount in (True, False)
    ]  # fmt: skip
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
            out[f"{which} {tau} {order}"] = {
                "lists": lists,
                "classes": data.num_classes,
                "names": data.dataset.classnames,
                "counts": data.class_counts,
                "hash": data.split_hash,
            }
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
    return {
        "results": list(outcome.items()),
        "text": log_text(output),
        "accuracy": accuracy,
        "counts": judge.class_counts(),
    }


@case
def global_seed(folder: Path) -> Any:
    toolkit.set_random_seed(7)
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
