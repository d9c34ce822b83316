"""A trainer in the manner of the CoOp code base on a tiny CLIP: no method of ours, a loader beside its class."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.tiny_clip import tiny_clip

NAMES = ["red_square", "blue circle", "sushi", "dog"]
SIDE = 16


def clip_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Tiny CLIP with plain names of weights."""
    return copy.deepcopy(tiny_clip(resolution=SIDE, patch=8, seed=seed, dtype=dtype).model)


class TextEncoder(nn.Module):
    """Holds CLIP's modules under CLIP's names."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.transformer = clip.transformer
        self.positional_embedding = clip.positional_embedding
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection

    def forward(self, features: Tensor) -> Tensor:
        return features


class Model(nn.Module):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(clip)
        self.image_encoder = clip.visual
        dtype = clip.text_projection.dtype
        self.prompts = nn.Parameter(torch.linspace(-1, 1, len(NAMES) * 32, dtype=dtype).view(len(NAMES), 32))

    def forward(self, image: Tensor) -> Tensor:
        text = self.text_encoder(self.prompts)
        return F.normalize(self.image_encoder(image.to(text.dtype)), dim=-1) @ F.normalize(text, dim=-1).t()


class Images:
    """A data set in the manner of Dassl's wrapper."""

    def __init__(self, data_source: list[Any]) -> None:
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.data_source[index]
        return {"img": item.image, "label": item.label}


def items(labels: list[int]) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    return [SimpleNamespace(image=torch.randn(3, SIDE, SIDE, generator=generator), label=label) for label in labels]


class ForeignTrainer:
    """``clip`` is what its model runs on."""

    def __init__(self, clip: Any = None, dataset: str = "EuroSAT", backbone: str = "ViT-B/16") -> None:
        self.cfg = SimpleNamespace(
            MODEL=SimpleNamespace(BACKBONE=SimpleNamespace(NAME=backbone)), DATASET=SimpleNamespace(NAME=dataset)
        )
        self.model: Any = Model(clip_model() if clip is None else clip)
        train = items([0, 1, 2, 3, 0, 1, 2, 2])
        test = torch.utils.data.DataLoader(Images(items([0, 1])), batch_size=3)
        self.dm: Any = SimpleNamespace(
            dataset=SimpleNamespace(classnames=list(NAMES), train_x=train), test_loader=test
        )

    def forward_backward(self, batch: dict[str, Tensor]) -> dict[str, float]:
        loss = F.cross_entropy(self.model(batch["img"]), batch["label"])
        loss.backward()
        return {"loss": loss.item()}


def beside(monkeypatch: Any, loader: Any, base: type = ForeignTrainer) -> type[ForeignTrainer]:
    """A trainer class in a module of its own, with ``loader`` beside it as ``load_clip_to_cpu`` (None: no loader)."""
    module: Any = types.ModuleType(f"somebodys_{'loader' if loader else 'trainer'}")
    if loader:
        module.load_clip_to_cpu = loader
        loader.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return type("SomebodysTrainer", (base,), {"__module__": module.__name__})


def save_weights(folder: Path) -> Path:
    path = folder / "tiny.pt"
    torch.save(clip_model().state_dict(), path)
    return path
