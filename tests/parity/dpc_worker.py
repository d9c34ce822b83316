"""Runs the released DPC over CoOp on the problem of ``dpc_problem``, in a process of its own.

The repository cannot be imported as it is: ``trainers/base.py`` and ``trainers/optim.py`` are not in it. Dassl's
``TrainerX`` and optimizer stand in for them, and its stage-one model, which would need a data set and a GPU, is one
that gives the problem's logits. Its batch builder, forward pass, loss and step run unchanged.

Usage: python dpc_worker.py REPOSITORY WEIGHTS RESULT
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.dpc_problem import (
    EPOCH_LENGTH,
    N_CTX,
    NAMES,
    OPTIM,
    RESOLUTION,
    TOP_K,
    VARIANTS,
    WEIGHT,
    absent_label,
    data,
)
from tests.parity.released_worker import prepare


def stand_in(repository: str) -> Any:
    """The released trainer's module, its missing neighbours replaced."""
    from dassl.engine import TrainerX
    from dassl.optim import build_optimizer

    def of_prompts(model: Any, cfg: Any) -> tuple[Any, None]:
        return build_optimizer(model.prompt_learner, cfg), None

    package = ModuleType("trainers")
    package.__path__ = [str(Path(repository) / "trainers")]  # type: ignore[attr-defined]
    sys.modules["trainers"] = package
    for name, content in {"base": {"TrainerX": TrainerX}, "optim": {"build_optimizer": of_prompts}}.items():
        module = ModuleType(f"trainers.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
    return import_module("trainers.sple_coop")


class StageOne:
    """Gives features whose products are the next logits."""

    def __init__(self) -> None:
        self.logits = torch.empty(0)

    def model_inference(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.eye(len(NAMES)), self.logits / 100.0


def configuration(
    folder: Path, dtype: torch.dtype, variant: dict[str, float], names: Sequence[str], top_k: int, pictures: int
) -> Any:
    from dassl.config import get_cfg_default
    from yacs.config import CfgNode

    files = {name: [label, [f"{label}/{i}.png" for i in range(pictures)]] for label, name in enumerate(names)}
    (folder / "pictures.json").write_text(json.dumps({"train": [files]}))
    cfg = get_cfg_default()
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"
    cfg.INPUT.SIZE = (RESOLUTION, RESOLUTION)
    cfg.DATASET.NAME = "Any"
    cfg.DATASET.SUBSAMPLE_CLASSES = "base"
    for key, value in OPTIM.items():
        cfg.OPTIM[key] = variant["rate"] * value if key.endswith("LR") else value
    cfg.OPTIM.WEIGHT_DECAY = variant["decay"]
    precision = "fp32" if dtype == torch.float32 else "fp16"
    cfg.TRAINER.COOP = CfgNode(
        {"N_CTX": N_CTX, "CSC": False, "CTX_INIT": "", "PREC": precision, "CLASS_TOKEN_POSITION": "end"}
    )
    cfg.SPLE = CfgNode(
        {
            "INFER_TOPK": top_k,
            "PIC_LIB": str(folder / "pictures.json"),
            "SPLE_TRAINER": CfgNode({"SPLE_INIT": True}),
            "STACK": CfgNode({"MODE": "converse", "WEIGHT": WEIGHT, "WEIGHT_FOR_NEW": 0.0, "LOOP_DEPTH": 0}),
        }
    )
    return cfg


def build(
    module: Any, folder: Path, weights: str, problem: Any, variant: str,
    names: Sequence[str] = NAMES, top_k: int = TOP_K, images_of_a_class: int = 1,
) -> Any:  # fmt: skip
    """The released second stage; ``problem`` gives the prompts of stage one and an image of every class."""
    from dassl.engine.trainer import TrainerBase

    import_module("clip.clip")._download = lambda url, root=None: weights
    module.load_backbone_prompt_vector = lambda cfg: (problem.context.clone(), {})
    module.read_image = lambda path: problem.pool[int(Path(path).parent.name)]
    cls = module.StackSPLE_CoOp
    cls.build_inference_backbone = lambda self, cfg: StageOne()
    trainer = cls.__new__(cls)
    TrainerBase.__init__(trainer)
    trainer.cfg = configuration(folder, problem.pool.dtype, VARIANTS[variant], names, top_k, images_of_a_class)
    trainer.device = torch.device("cpu")
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=list(names)))
    trainer.transform_img = lambda image: image
    trainer.build_model()
    if variant == "P kept":
        trainer.model.prompt_learner.pretuned_ctx = problem.context.clone()
    return trainer


def parallel(trainer: Any) -> Tensor:
    """P' as the released forward pass takes it out of its variable."""
    learner = trainer.model.prompt_learner
    return (learner.ctx.detach() - (1 - WEIGHT) * learner.pretuned_ctx) / WEIGHT


def run(module: Any, weights: str, dtype: torch.dtype, variant: str) -> dict[str, Any]:
    """Batches, losses, the first gradient (of P'), and the prompts after all steps."""
    torch.set_default_dtype(dtype)
    if dtype == torch.float64:
        import_module("clip.model").LayerNorm.forward = nn.LayerNorm.forward
    problem = data(dtype)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(module, Path(folder), weights, problem, variant)
        trainer.set_model_mode("train")
        trainer.num_batches = EPOCH_LENGTH
        made, original = [], trainer.parse_sple_batch_train
        trainer.parse_sple_batch_train = lambda batch: made.append(original(batch)) or made[-1]
        losses, gradient = [], torch.empty(0)
        for step, (image, label, logits) in enumerate(zip(*problem[2:], strict=True)):
            trainer.batch_idx, trainer.inference_trainer.logits = step % EPOCH_LENGTH, logits
            batch = {"img": image, "label": label, "impath": ["/data/x/0.png"] * len(label)}
            losses.append(trainer.forward_backward(batch)["loss"])
            if step == 0:
                gradient = WEIGHT * trainer.model.prompt_learner.ctx.grad.clone()
        corner, label = absent_label()
        trainer.inference_trainer.logits = corner.to(dtype)
        absent = original({"img": problem.pool[:1], "label": torch.tensor(label), "impath": ["/data/x/0.png"]})
        return {
            "images": [images[:, 0, 0, 0].clone() for images, _ in made],
            "labels": [labels.tolist() for _, labels in made],
            "losses": losses,
            "gradient": gradient,
            "trained": parallel(trainer),
            "P moved": not torch.equal(trainer.model.prompt_learner.pretuned_ctx, problem.context),
            "absent": absent[1].tolist(),
        }


def main(repository: str, weights: str, result: str) -> None:
    prepare(repository)
    module = stand_in(repository)
    results = {}
    for dtype in (torch.float32, torch.float64):
        for variant in VARIANTS:
            results[str(dtype), variant] = run(module, weights, dtype, variant)
    torch.save(results, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
