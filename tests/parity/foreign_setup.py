"""Makes a released repository run on current torch without a GPU, without touching a file of it.

Half precision and ``.cuda()`` do nothing, its CLIP finds tiny weights, and modules that it lacks have stand-ins.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpt_plugin.toolkit import compat
from tests.helpers.tiny_clip import random_state
from tests.parity.foreign_cases import BATCH, SHOTS, Case
from tests.runner.released import CLASSES, prepare

_ROOT = Path(__file__).resolve().parents[2]


def import_released(repository: Path) -> Any:
    """Their ``train.py`` as a module, after which all their trainers and data sets are registered."""
    compat.prepare_dassl()
    sys.path[:] = [str(repository), *(p for p in sys.path if p and Path(p).resolve() != _ROOT)]
    import_module("dassl.engine")
    compat.repair_dassl()
    _stand_ins(repository)
    _without_cuda()
    return import_module("train")


def _stand_ins(repository: Path) -> None:
    from dassl.engine import TrainerX
    from dassl.optim import build_optimizer

    if not (repository / "clip" / "__init__.py").exists():
        stub("clip", __path__=[str(repository / "clip")])
    stub("plotnine")
    if not (repository / "trainers" / "imagenet_templates.py").exists():
        templates = ["a photo of a {}.", "a {}."]
        stub("trainers.imagenet_templates", IMAGENET_TEMPLATES=templates, IMAGENET_TEMPLATES_SELECT=templates)
    if not (repository / "trainers" / "base.py").exists():
        stub("trainers.base", TrainerX=TrainerX)
        stub("trainers.optim", build_optimizer=lambda model, cfg: (build_optimizer(model, cfg), None))


def stub(name: str, **values: Any) -> None:
    """Put a module of these values in place of one that cannot be imported or is not needed."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__all__ = []  # type: ignore[attr-defined]
    vars(module).update(values)
    sys.modules[name] = module


def _without_cuda() -> None:
    def itself(value: Any, *args: Any, **kwargs: Any) -> Any:
        return value

    def on_cpu(to: Any) -> Any:
        def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self if args[:1] == ("cuda",) else to(self, *args, **kwargs)

        return moved

    def load(*args: Any, **kwargs: Any) -> Any:
        return original_load(*args, **{**kwargs, "map_location": "cpu"})

    original_load = torch.load
    torch.load = load
    for cls in (torch.Tensor, nn.Module):
        cls.cuda = cls.half = itself
        cls.to = on_cpu(cls.to)


def clip_modules(name: str) -> list[Any]:
    """A module of the repository's copies of CLIP: DePT has two of them."""
    packages = [package for package in ("clip", "clip_maple") if importlib.util.find_spec(package)]
    return [import_module(f"{package}.{name}") for package in packages]


def compute_in(dtype: torch.dtype) -> None:
    """Let everything that is built from now on compute in float32 or float64."""
    wide = dtype == torch.float64
    for model in clip_modules("model"):
        if not hasattr(model, "released_forward"):
            model.released_forward = model.LayerNorm.forward
        model.LayerNorm.forward = nn.LayerNorm.forward if wide else model.released_forward
    torch.set_default_dtype(dtype)
    nn.Module.float = lambda self: self.to(dtype)  # type: ignore[method-assign]


def write_weights(path: Path, case: Case, **sizes: int) -> None:
    """Tiny random CLIP weights of the case's sizes, two blocks in either tower."""
    state = random_state(
        text_layers=2, vision_layers=2, resolution=case.resolution, patch=case.patch, seed=4, **{**case.sizes, **sizes}
    )
    torch.save(state, path)


def serve_weights(path: Path) -> None:
    """Let their CLIP load these weights in place of a download; DPC's loaders leave out an argument."""
    plain = {"trainer": "CoOp", "vision_depth": 0, "language_depth": 0, "vision_ctx": 0, "language_ctx": 0}
    for clip in clip_modules("clip"):
        clip._download = lambda url, root=None: str(path)
        if clip.build_model.__code__.co_argcount == 2:
            clip.build_model.__defaults__ = (plain,)


def write_files(folder: Path, case: Case) -> None:
    """Images in EuroSAT's layout; the files that PromptKD and DPC expect in fixed places."""
    if not (folder / "data").exists():
        prepare(folder)
    write_weights(folder / "weights.pt", case)
    if case.trainer == "PromptKD":
        (folder / "clip").mkdir(exist_ok=True)
        write_weights(folder / "clip" / "ViT-B-16.pt", case)
        write_weights(folder / "clip" / "ViT-L-14.pt", case, embed_dim=768)
        teacher = folder / "teacher_model" / "EuroSAT" / "VLPromptLearner" / "model-best.pth.tar"
        teacher.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": {}, "epoch": 1, "val_result": 0.0}, teacher)
    images = {name: [label, [f"{name}/train{i}.png" for i in range(SHOTS)]] for label, name in enumerate(CLASSES)}
    (folder / "pictures.json").write_text(json.dumps({"train": [images], "val": [images]}))


def configuration(train: Any, case: Case, folder: Path, **more: Any) -> Any:
    """Their own configuration with their ``extend_cfg``, on the tiny images and weights."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    values = {
        "DATASET.ROOT": f"{folder / 'data'}/",
        "DATASET.NAME": "EuroSAT",
        "DATASET.NUM_SHOTS": SHOTS,
        "SEED": 1,
        "USE_CUDA": False,
        "VERBOSE": False,
        "OUTPUT_DIR": str(folder / "output"),
        "INPUT.SIZE": (case.resolution, case.resolution),
        "INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "INPUT.INTERPOLATION": "bicubic",
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": BATCH,
        "MODEL.BACKBONE.NAME": "ViT-B/16",
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.02,
        "OPTIM.MAX_EPOCH": 2,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "OPTIM.WARMUP_CONS_LR": 0.01,
        "TRAIN.PRINT_FREQ": 1,
        "TRAINER.NAME": case.trainer,
        **case.options,
        **more,
    }
    if "SPLE" in cfg:
        values |= {"SPLE.BACK_CKPT_PATH": str(folder / "stage-one"), "SPLE.PIC_LIB": str(folder / "pictures.json")}
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cfg.freeze()
    return cfg
