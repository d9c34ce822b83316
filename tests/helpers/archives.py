"""Weights files in the layouts that people have, made from a state dict."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cpt_plugin.encoders._package import model_module


def clip_of_shape(
    *,
    text_width: int,
    vision_width: int,
    text_layers: int,
    vision_layers: int | tuple[int, int, int, int],
    embed_dim: int,
    resolution: int,
    patch: int | None,
    seed: int = 0,
) -> nn.Module:
    """A random model of the `clip` package, in half precision as OpenAI's files hold it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_module().CLIP(
            embed_dim, resolution, vision_layers, vision_width, patch,
            77, 49408, text_width, text_width // 64, text_layers,
        )  # fmt: skip
        for name, value in model.named_parameters():
            if name.endswith("bn3.weight"):
                nn.init.uniform_(value, 0.5, 1.0)
            elif value.ndim == 4 and patch is None:
                nn.init.kaiming_normal_(value)  # else the features of a random ResNet hardly depend on the image
    model_module().convert_weights(model)
    return model.eval()


def write_torchscript(path: Path, state: Mapping[str, Tensor], resolution: int) -> Path:
    """An archive with OpenAI's names, and the three numbers that theirs hold besides."""
    numbers = {"input_resolution": resolution, "context_length": 77, "vocab_size": 49408}
    root = _Bare()
    for key, value in [*state.items(), *((key, torch.tensor(number)) for key, number in numbers.items())]:
        *folders, name = key.split(".")
        module: nn.Module = root
        for folder in folders:
            if folder not in module._modules:
                module.add_module(folder, _Bare())
            module = module._modules[folder]  # type: ignore[assignment]
        module.register_buffer(name, value.detach())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(root).save(str(path))
    return path


class _Bare(nn.Module):
    """Holds tensors and other modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x
