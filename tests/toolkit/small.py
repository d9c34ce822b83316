"""A small data set of images on disk and a small trainer with dropout, for tests of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from cpt_plugin.toolkit import embedded as engine

CLASSES = ("ant", "bee", "cat", "dog")
SIDE = 8


def write_images(root: Path, per_class: int = 8, seed: int = 0) -> None:
    """Writes noisy images, one colour a class: ``<root>/small/<part>/<class>_<i>.png``."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", per_class), ("val", 2), ("test", 3)):
        folder = root / "small" / part
        folder.mkdir(parents=True)
        for label, name in enumerate(CLASSES):
            for i in range(count):
                noise = rng.integers(0, 160, (SIDE + 2, SIDE + 2, 3))
                noise[:, :, label % 3] += 60 + 30 * (label // 3)
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{name}_{i}.png")


@engine.DATASET_REGISTRY.register()
class SmallShapes(engine.DatasetBase):
    dataset_dir = "small"

    def __init__(self, cfg: Any) -> None:
        base = Path(cfg.DATASET.ROOT) / self.dataset_dir
        parts = [
            [
                engine.Datum(str(path), label, classname=name)
                for label, name in enumerate(CLASSES)
                for path in sorted((base / part).glob(f"{name}_*.png"))
            ]
            for part in ("train", "val", "test")
        ]
        parts = engine.subsample_classes(*parts, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=parts[0], val=parts[1], test=parts[2])


class SmallNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * SIDE * SIDE, 16)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(16, num_classes)
        self.register_buffer("seen", torch.zeros(num_classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.hidden(image.flatten(1)))))


class Killed(Exception):
    """Stands for the end of the process in tests."""


@engine.TRAINER_REGISTRY.register()
class SmallTrainer(engine.TrainerX):
    """``kill_at`` stops the run before that step (counted from 0 over all epochs), as a crash would."""

    kill_at: int | None = None

    def build_model(self) -> None:
        self.model = SmallNet(self.num_classes).to(self.device)
        self.optim = engine.build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = engine.build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("net", self.model, self.optim, self.sched)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        if self.kill_at == self.global_step:
            raise Killed
        image, label, _ = self.parse_batch_train(batch)
        output = self.model(image)
        self.model.seen += torch.bincount(label, minlength=self.num_classes)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": engine.compute_accuracy(output, label)[0].item()}


def small_cfg(root: Path, output: Path, *options: Any) -> Any:
    cfg = engine.get_cfg_default()
    values = {
        "DATASET.ROOT": str(root),
        "DATASET.NAME": "SmallShapes",
        "OUTPUT_DIR": str(output),
        "SEED": 1,
        "TRAINER.NAME": "SmallTrainer",
        "INPUT.SIZE": (SIDE, SIDE),
        "INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "DATALOADER.TRAIN_X.BATCH_SIZE": 6,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.05,
        "OPTIM.MAX_EPOCH": 3,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "TRAIN.PRINT_FREQ": 2,
        "USE_CUDA": False,
    }
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cfg.merge_from_list(options)
    cfg.freeze()
    return cfg


def fingerprint(trainer: Any) -> bytes:
    """All bits of the trained model and of its optimizer."""
    tensors = list(trainer.model.state_dict().values())
    tensors += [s["momentum_buffer"] for s in trainer.optim.state_dict()["state"].values()]
    return b"".join(t.detach().numpy().tobytes() for t in tensors)
