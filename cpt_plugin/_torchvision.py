"""What torchvision needs before it can be imported beside a torch build without CUDA; loads nothing heavy itself."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

APPLIED: list[str] = []
"""What this process has had repaired so far, in a few words each."""
_KEEP_ALIVE: list[Any] = []  # declared operators vanish with the object that declared them


def prepare_torchvision() -> None:
    """Let ``import torchvision`` succeed beside a torch build without CUDA.

    The Linux wheel of torchvision on the package index is built for CUDA. Beside a CPU build of torch its
    compiled part cannot load, the operators ``nms`` and ``qnms`` are missing, and the import fails although
    transforms and data sets need neither. Declaring the two schemas is enough. Does nothing where the compiled
    part loads (a second declaration would end the process), on a CUDA build, after torchvision is imported,
    or when called again.
    """
    import torch

    if sys.platform != "linux" or torch.version.cuda is not None or "torchvision" in sys.modules or _KEEP_ALIVE:
        return
    if _loads_compiled_torchvision(torch.ops):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEEP_ALIVE.append(library)
    APPLIED.append("torchvision beside a CPU build of torch")


def _loads_compiled_torchvision(ops: Any) -> bool:
    """Load torchvision's compiled part as torchvision itself will; tells whether its operators are there."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in Path(folder).glob("_C*.so"):
            with contextlib.suppress(OSError):
                ops.load_library(str(path))
    return hasattr(ops.torchvision, "nms")
