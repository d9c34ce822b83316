"""ProMetaR: gradients of three losses taken apart, then a step through a functional clone of the model (MAML)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.foreign_cases import ByHand, Case, Repository, both_sides
from tests.parity.foreign_stubs import stub


def _clone(module: Any, known: dict[int, Tensor] | None = None) -> Any:
    """The module with differentiable copies of its parameters; tensors that it shares stay shared."""
    known = {} if known is None else known
    clone = module.__new__(type(module))
    clone.__dict__ = module.__dict__.copy()
    clone._parameters = {
        name: value if value is None else known.setdefault(id(value), value.clone())
        for name, value in module._parameters.items()
    }
    clone._modules = {name: value and _clone(value, known) for name, value in module._modules.items()}
    return clone


def _update(module: Any, known: dict[int, Tensor] | None = None) -> Any:
    """Adds to every parameter its attribute ``update``, differentiably."""
    known = {} if known is None else known
    for name, value in module._parameters.items():
        if getattr(value, "update", None) is not None:
            known[id(value)] = value + value.update
            value.update = None
        module._parameters[name] = known.get(id(value), value)
    for child in module._modules.values():
        _update(child, known)
    return module


def _stand_ins(code: Path) -> None:
    for name in ("learn2learn", "learn2learn.algorithms"):
        stub(name, __path__=[])
    stub("learn2learn.algorithms.base_learner", BaseLearner=nn.Module)
    stub("learn2learn.utils", clone_module=_clone, update_module=_update)
    torch.backends.cuda.enable_flash_sdp(False)


_REPOSITORY = Repository(
    "CPT_RELEASED_PROMETAR", stand_ins=_stand_ins,
    lacks="`learn2learn` (clone and update of a module); attention without the fused kernels, which have no second "
    "derivative on a CPU",
)  # fmt: skip
CASES = (
    Case(_REPOSITORY, "ProMetaR", "tuple of 7; three forwards a step", both_sides("PROMETAR"),
         hook="forwards='first', backward='first'", reports_late=True,
         by_hand=ByHand(derivative=("trainers.prometar", "grad"), once=True)),
)  # fmt: skip
