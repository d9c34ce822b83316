"""Runs released prompt learners (CoOp, CoCoOp, MaPLe, IVLP, PromptSRC, DAPT), in a process of its own.

The released repositories all use the top-level names ``clip``, ``datasets`` and ``trainers``; so one process
serves one repository, which stands first on the path. Nothing of theirs is edited: half precision is
switched off from outside, and the tiny weights are served in place of a download.

Usage: python released_worker.py REPOSITORY JOB RESULT
"""

from __future__ import annotations

import random
import sys
from contextlib import ExitStack
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.problems import EPOCH_LENGTH, NAMES, OPTIM, batches, our_name, prompts_like, prototypes


def prepare(repository: str) -> None:
    """Put the repository first and make Dassl and CLIP importable on current torch, all in float32."""
    from cpt_plugin.toolkit import compat

    compat.prepare_dassl()
    sys.path.insert(0, repository)
    import_module("dassl.engine")
    compat.repair_dassl()
    torch.Tensor.half = torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    nn.Module.half = nn.Module.float = nn.Module.cuda = lambda self: self  # type: ignore[method-assign]
    for cls in (torch.Tensor, nn.Module):
        cls.to = staying(cls.to)  # type: ignore[method-assign]


def staying(move: Any) -> Any:
    """``to`` that ignores the word cuda, and a step down from float64 to float32."""

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        narrows = isinstance(self, Tensor) and self.dtype == torch.float64
        kept = [a for a in args if not (isinstance(a, str) and a == "cuda") and not (narrows and a is torch.float)]
        return move(self, *kept, **kwargs) if kept or kwargs else self

    return to


def run(problem: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Released model on one problem: starting values, logits, gradients, and 20 training steps."""
    torch.set_default_dtype(problem.torch_dtype)
    clip_model = import_module("clip.model")
    if problem.dtype == "float64":
        clip_model.LayerNorm.forward = nn.LayerNorm.forward
    else:
        clip_model.LayerNorm.forward = job["layer_norm"]
    trainer = build(problem, job["weights"][problem.name])
    if problem.trainer == "ZeroshotCLIP":
        with torch.no_grad():
            return {"logits": trainer.model_inference(batches(problem.torch_dtype)[0][0])}
    prompts = prompts_of(trainer)
    initial = {name: value.detach().clone() for name, value in prompts.items()}
    start = prompts_like({name: tuple(value.shape) for name, value in initial.items()}, problem.torch_dtype)
    with torch.no_grad():
        for name, value in prompts.items():
            value.copy_(start[name])
    images, labels = batches(problem.torch_dtype)
    trainer.set_model_mode("eval")
    output = trainer.model(images[0])
    logits = output[0] if isinstance(output, tuple) else output
    F.cross_entropy(logits, labels[0]).backward()
    gradients = {name: value.grad.clone() for name, value in prompts.items()}
    trainer.model.zero_grad()
    result = {"initial": initial, "logits": logits.detach(), "gradients": gradients}
    if problem.trainer == "PromptSRC":
        result |= own_loss(trainer, images[0], labels[0])
    result |= steps(trainer, images, labels)
    if folder := job.get("save to"):
        result |= saved(trainer, f"{folder}/{problem.name}", images[0])
    return result


def saved(trainer: Any, folder: str, image: Tensor) -> dict[str, Any]:
    """Logits of the trained model, which Dassl saves as it does without our repair: with live schedulers."""
    from dassl.optim.lr_scheduler import _BaseWarmupScheduler
    from torch.optim.lr_scheduler import LRScheduler

    with patch.object(_BaseWarmupScheduler, "state_dict", LRScheduler.state_dict):
        trainer.save_model(OPTIM["MAX_EPOCH"] - 1, folder)
    trainer.set_model_mode("eval")
    with torch.no_grad():
        return {"folder": folder, "trained logits": trainer.model(image)}


def prompts_of(trainer: Any) -> dict[str, Tensor]:
    """All tensors that train, under our names."""
    return {our_name(name): value for name, value in trainer.model.named_parameters() if value.requires_grad}


def own_loss(trainer: Any, image: Tensor, label: Tensor) -> dict[str, Any]:
    """PromptSRC's loss terms, weighted, and their gradients: a training step whose update is left out.

    Its ``forward_backward`` keeps the terms to itself; they are read where it calls torch's functions.
    """
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx = 2, 0
    options, values = trainer.cfg.TRAINER.PROMPTSRC, []
    with ExitStack() as stack:
        for name in ("cross_entropy", "l1_loss", "kl_div"):
            stack.enter_context(patch.object(F, name, recording(getattr(F, name), values)))
        stack.enter_context(patch.object(trainer.optim, "step"))
        total = trainer.forward_backward({"img": image, "label": label})["loss"]
    ce, text, images, kl = values
    gradients = {name: value.grad.clone() for name, value in prompts_of(trainer).items()}
    trainer.model.zero_grad()
    terms = {
        "ce": ce,
        "scl_text": options.TEXT_LOSS_WEIGHT * text,
        "scl_image": options.IMAGE_LOSS_WEIGHT * images,
        "scl_logits": kl / (len(image) * len(NAMES)),
        "total": total,
    }
    return {"terms": terms, "own gradients": gradients}


def recording(function: Any, values: list[float]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Tensor:
        value = function(*args, **kwargs)
        values.append(value.item())
        return value

    return call


def steps(trainer: Any, images: Tensor, labels: Tensor) -> dict[str, Any]:
    trainer.set_model_mode("train")
    trainer.num_batches = EPOCH_LENGTH
    losses, rates = [], []
    for step, (image, label) in enumerate(zip(images, labels, strict=True)):
        trainer.batch_idx = step % EPOCH_LENGTH
        rates.append(trainer.get_current_lr())
        losses.append(trainer.forward_backward({"img": image, "label": label})["loss"])
    trained = {name: value.detach().clone() for name, value in prompts_of(trainer).items()}
    return {"trained": trained, "losses": losses, "rates": rates}


def build(problem: Any, weights: str) -> Any:
    """The released trainer with its own model, optimizer and schedule, but without data loaders."""
    from dassl.config import get_cfg_default
    from dassl.engine import TRAINER_REGISTRY
    from dassl.engine.trainer import TrainerBase
    from yacs.config import CfgNode

    import_module("clip.clip")._download = lambda url, root=None: weights
    if problem.trainer == "DAPT":
        given = prototypes(problem.sizes["embed_dim"], problem.torch_dtype)
        import_module("trainers.dapt").prototype_load = lambda cfg: given
    cfg = get_cfg_default()
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"
    cfg.INPUT.SIZE = (problem.resolution, problem.resolution)
    cfg.DATASET.NAME = problem.dataset
    for key, value in OPTIM.items():
        cfg.OPTIM[key] = value
    if problem.node:
        precision = "fp32" if problem.dtype == "float32" else "fp16"
        cfg.TRAINER[problem.node] = CfgNode({**problem.options, "PREC": precision})
    cls = TRAINER_REGISTRY.get(problem.trainer)
    trainer = cls.__new__(cls)
    TrainerBase.__init__(trainer)
    trainer.cfg, trainer.device = cfg, torch.device("cpu")
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=list(problem.names)))
    trainer.check_cfg(cfg)
    trainer.build_model()
    return trainer


def data_rules(job: dict[str, Any]) -> dict[str, Any]:
    """CoOp's own templates, base/new division and few-shot draw, on items that are only paths and labels."""
    from dassl.data.datasets import DatasetBase

    pets = import_module("datasets.oxford_pets")
    pets.Datum = lambda impath, label, classname: SimpleNamespace(
        impath=impath, label=label, classname=classname, domain=0
    )
    zero_shot = import_module("trainers.zsclip")
    items = {part: [SimpleNamespace(**row, domain=0) for row in rows] for part, rows in job["items"].items()}
    drawer = DatasetBase.__new__(DatasetBase)
    draws = {}
    for seed in job["seeds"]:
        random.seed(seed)
        train = drawer.generate_fewshot_dataset(items["train"], num_shots=job["shots"])
        val = drawer.generate_fewshot_dataset(items["val"], num_shots=min(job["shots"], 4))
        for which in ("all", "base", "new"):
            parts = pets.OxfordPets.subsample_classes(train, val, items["test"], subsample=which)
            draws[seed, which] = [[(i.impath, i.label, i.classname) for i in part] for part in parts]
    return {
        "draws": draws,
        "templates": dict(zero_shot.CUSTOM_TEMPLATES),
        "ensemble": list(zero_shot.IMAGENET_TEMPLATES_SELECT),
    }


def main(repository: str, job_file: str, result_file: str) -> None:
    prepare(repository)
    job = torch.load(job_file, weights_only=False)
    job["layer_norm"] = import_module("clip.model").LayerNorm.forward
    for module in job["modules"]:
        import_module(module)
    results = {problem.name: run(problem, job) for problem in job["problems"]}
    if "items" in job:
        results["data rules"] = data_rules(job)
    if "trainers.promptsrc" in job["modules"]:
        results["teacher templates"] = import_module("trainers.promptsrc").IMAGENET_TEMPLATES
    torch.save(results, result_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
