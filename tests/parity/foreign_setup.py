"""Makes a released repository run on current torch without a GPU, without touching a file of it.

Half precision and ``.cuda()`` do nothing, its CLIP finds tiny weights, and modules that it lacks have stand-ins.
"""

from __future__ import annotations

import functools
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpt_plugin.toolkit import compat
from tests.parity.foreign_cases import BATCH, LOSS_SCALE, SHOTS, Case, Repository
from tests.parity.foreign_stubs import stub
from tests.parity.foreign_weights import write_weights
from tests.runner.released import prepare

_ROOT = Path(__file__).resolve().parents[2]


def import_released(repository: Repository, code: Path) -> Any:
    """Their ``train.py`` as a module, after which all their trainers and data sets are registered."""
    compat.prepare_dassl()
    sys.path[:] = [str(code), *(p for p in sys.path if p and Path(p).resolve() != _ROOT)]
    import_module("dassl.engine")
    compat.repair_dassl()
    if (code / "clip").is_dir() and not (code / "clip" / "__init__.py").exists():
        stub("clip", __path__=[str(code / "clip")])
    repository.stand_ins(code)
    _without_cuda()
    return import_module(repository.train)


def _without_cuda() -> None:
    def itself(value: Any, *args: Any, **kwargs: Any) -> Any:
        return value

    def on_cpu(to: Any) -> Any:
        def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self if str(args[:1]).startswith(("('cuda", "(device(type='cuda")) else to(self, *args, **kwargs)

        return moved

    def load(*args: Any, **kwargs: Any) -> Any:
        return original_load(*args, **{**kwargs, "map_location": "cpu"})

    torch.cuda.amp.GradScaler = Scaler
    original_load = torch.load
    torch.load = load
    for cls in (torch.Tensor, nn.Module):
        cls.cuda = cls.half = itself
        cls.to = on_cpu(cls.to)


class Scaler(torch.amp.GradScaler):
    """Scales losses on a CPU; it divides by a float32, which torch wants, also where ``float`` means float64."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=LOSS_SCALE)

    def _unscale_grads_(self, optimizer: Any, inv_scale: torch.Tensor, *args: Any) -> Any:
        return super()._unscale_grads_(optimizer, inv_scale.to(torch.float32), *args)


def clip_modules(repository: Repository, name: str) -> list[Any]:
    """Modules of the repository's copies of CLIP in which ``name`` is defined."""
    return [
        module
        for path, module in sys.modules.items()
        if path.startswith(tuple(f"{package}." for package in repository.clips))
        and getattr(getattr(module, name, None), "__module__", None) == path
    ]


def compute_in(dtype: torch.dtype) -> None:
    """Let everything that is built from now on compute in float32 or float64, also their layer norms in float32."""
    for cls in nn.LayerNorm.__subclasses__():
        if "forward" in vars(cls):
            cls.released_forward = vars(cls).get("released_forward", cls.forward)
            cls.forward = nn.LayerNorm.forward if dtype == torch.float64 else cls.released_forward
    torch.set_default_dtype(dtype)
    for kind in (torch.Tensor, nn.Module):
        kind.float = lambda self: self.to(dtype)  # type: ignore[method-assign]


def serve_weights(repository: Repository, path: Path) -> None:
    """Let their CLIP load these weights in place of a download."""
    for clip in clip_modules(repository, "_download"):
        clip._download = functools.partial(_served, path)
        clip._download.__module__ = clip.__name__


def _served(path: Path, url: str, root: str | None = None) -> str:
    return str(path)


def write_files(folder: Path, case: Case) -> None:
    """Images in EuroSAT's layout, weights, and what the case expects in fixed places."""
    if not (folder / "data").exists():
        prepare(folder)
    write_weights(folder / "weights.pt", case)
    case.files(folder, case)


class Arguments(types.SimpleNamespace):
    """Words of a command line; all that were not given are empty."""

    def __getattr__(self, name: str) -> str:
        return ""


def configuration(train: Any, case: Case, folder: Path, **more: Any) -> Any:
    """Their own configuration with their ``extend_cfg``, on the tiny images and weights."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    if case.repository.arguments:
        train.args = Arguments(**case.repository.arguments)
    train.extend_cfg(cfg)
    if case.repository.arguments:
        train.reset_cfg(cfg, train.args)
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
        **case.values(folder),
        **more,
    }
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cfg.freeze()
    return cfg
