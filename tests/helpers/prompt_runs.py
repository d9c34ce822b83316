"""Real prompt trainers on a tiny random CLIP and a few noisy images, for tests of whole runs."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from tests.helpers.tiny_clip import random_state
from tests.toolkit.small import write_images

RESOLUTION = 16


@functools.cache
def weights(folder: Path) -> Path:
    path = folder / "tiny.pt"
    state = random_state(
        text_width=64, vision_width=64, text_layers=3, vision_layers=3, embed_dim=32, resolution=RESOLUTION,
        patch=8, seed=0,
    )  # fmt: skip
    torch.save(state, path)
    return path


def prepare(folder: Path) -> None:
    """Write images and CLIP weights into ``folder``, once."""
    if not (folder / "small").is_dir():
        write_images(folder)
    weights(folder)


def first_stage(folder: Path, learner: str) -> Path:
    """Output folder of a run of the plain trainer ``learner``, from which second stages start; trained once."""
    output = folder / f"first-stage-{learner}"
    if not output.is_dir():
        train(prompt_cfg(folder, output, learner, "OPTIM.MAX_EPOCH", 2, "TRAIN.CHECKPOINT_SECONDS", 1000.0))
    return output


def prompt_cfg(folder: Path, output: Path, trainer: str, *options: Any) -> Any:
    """Frozen configuration of a run of three epochs over 4 classes, a state saved after every step.

    A second stage (``...DPC...``) starts from :func:`first_stage`.
    """
    cfg = default_cfg()
    values = {
        "DATASET.ROOT": str(folder),
        "DATASET.NAME": "SmallShapes",
        "OUTPUT_DIR": str(output),
        "SEED": 1,
        "TRAINER.NAME": trainer,
        "MODEL.BACKBONE.NAME": str(weights(folder)),
        "INPUT.SIZE": (RESOLUTION, RESOLUTION),
        "INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "DATALOADER.TRAIN_X.BATCH_SIZE": 8,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.02,
        "OPTIM.MAX_EPOCH": 3,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "TRAIN.CHECKPOINT_SECONDS": 0,
        "TRAIN.PRINT_FREQ": 1000,
        "TRAINER.COOP.N_CTX": 3,
        "TRAINER.MAPLE.PROMPT_DEPTH": 2,
        "TRAINER.MAPLE.CTX_INIT": "",
        "TRAINER.IVLP.PROMPT_DEPTH_TEXT": 2,
        "TRAINER.IVLP.PROMPT_DEPTH_VISION": 2,
        "TRAINER.IVLP.CTX_INIT": "",
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT": 2,
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION": 2,
        "TRAINER.PROMPTSRC.CTX_INIT": "",
        "TRAINER.PROMPTSRC.GPA_MEAN": 2.0,
        "TRAINER.SHALLOW_VL.N_CTX_TEXT": 3,
        "TRAINER.SHALLOW_VL.N_CTX_VISION": 3,
        "TRAINER.DPC.TOP_K": 3,
        "CPT.CLUSTER_SIZE": 2,
        "USE_CUDA": False,
        "VERBOSE": False,
    }
    if "DPC" in trainer and "TRAINER.DPC.STAGE_ONE" not in options:
        values["TRAINER.DPC.STAGE_ONE"] = str(first_stage(folder, trainer.split("DPC")[0]))
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cfg.merge_from_list([str(option) if isinstance(option, Path) else option for option in options])
    cfg.freeze()
    return cfg


def train(cfg: Any) -> Any:
    """Build the trainer and train it; returns it."""
    toolkit.set_random_seed(cfg.SEED)
    trainer = toolkit.build_trainer(cfg)
    trainer.train()
    return trainer


def fingerprint(output: Path) -> str:
    """SHA-256 over all tensors and numbers of the final checkpoint but the time it took."""
    (path,) = (path for path in output.glob("*/model.pth.tar-*") if path.suffix.removeprefix(".tar-").isdigit())
    digest = hashlib.sha256()
    content = toolkit.load_checkpoint(str(path))
    del content["elapsed"]
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(json.dumps(value).encode())
