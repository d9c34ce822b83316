"""Small helpers around modules: accuracy of a batch, parameter counts, initial weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.checkpoint import load_checkpoint
from cpt_plugin.toolkit.embedded.logs import LOGGER


def compute_accuracy(output: Any, target: torch.Tensor, topk: Sequence[int] = (1,)) -> list[torch.Tensor]:
    """Returns the top-k accuracies of a batch in percent, each a tensor of shape (1,).

    Args:
        output: logits (B, K), or a tuple whose first element they are.
        target: labels (B,).
        topk: the values of k.
    """
    logits = output[0] if isinstance(output, (tuple, list)) else output
    ranked = logits.topk(min(max(topk), logits.shape[1]), dim=1).indices
    hits = ranked == target[:, None]
    return [100.0 * hits[:, :k].any(dim=1).float().mean().reshape(1) for k in topk]


def count_num_param(model: nn.Module | None = None, params: Iterable[Any] | None = None) -> int:
    """Returns the number of scalars in a module's parameters, or in parameters or parameter groups.

    Raises:
        ValueError: neither is given.
    """
    if model is not None:
        return sum(parameter.numel() for parameter in model.parameters())
    if params is None:
        raise ValueError("count_num_param needs a model or its parameters")
    listed = [p["params"] if isinstance(p, dict) else p for p in params]
    flat = [q for p in listed for q in (p if isinstance(p, (list, tuple)) else [p])]
    return sum(parameter.numel() for parameter in flat)


count_num_params = count_num_param


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Copies the weights of a checkpoint whose names and shapes fit; the others are logged.

    Raises:
        CheckpointError: the file is damaged, or nothing in it fits.
    """
    content = load_checkpoint(weight_path)
    own = model.state_dict()
    given = {
        name.removeprefix("module."): value for name, value in content.get("state_dict", content).items()
    }
    fitting = {n: v for n, v in given.items() if n in own and own[n].shape == v.shape}
    if not fitting:
        raise CheckpointError(
            f"{weight_path} holds no weight that fits {type(model).__name__} by name and shape"
        )
    model.load_state_dict({**own, **fitting})
    LOGGER.info(f"Successfully loaded pretrained weights from {weight_path}")
    if unused := sorted(given.keys() - fitting.keys()):
        LOGGER.warning(f"Layers discarded due to unmatched keys or size: {unused}")


def unwrapped_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns a module's state dict without the prefix that ``nn.DataParallel`` adds."""
    return {name.removeprefix("module."): value for name, value in model.state_dict().items()}
