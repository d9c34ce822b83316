"""Checkpoints that Dassl wrote: they hold live scheduler and optimizer objects, which are never brought to life here.

Dassl keeps the schedule behind a warm-up as an object, and with it the optimizer. Their class names are few and
known; :class:`Inert` takes the place of each. A file that asks for any other name is refused as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt_plugin.toolkit.embedded.checkpoint import decode, read_bytes

_CLASSES = (
    *(f"torch.optim.{name}" for name in ("sgd.SGD", "adam.Adam", "adamw.AdamW", "rmsprop.RMSprop", "radam.RAdam")),
    *(f"torch.optim.lr_scheduler.{name}" for name in ("CosineAnnealingLR", "StepLR", "MultiStepLR")),
    *(f"dassl.optim.lr_scheduler.{name}Scheduler" for name in ("ConstantWarmup", "LinearWarmup")),
    *(f"dassl.optim.radam.{name}" for name in ("RAdam", "PlainRAdam", "AdamW")),
    "builtins.dict",
    "__builtin__.dict",
)


class Inert:
    """An object without behavior in the place of an object of a known class; what it held is dropped."""

    def __init__(self, *arguments: Any) -> None:
        """Take what the class would have been called with, and keep nothing."""

    def __setstate__(self, state: Any) -> None:
        """Drop the object's state."""


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    return {}


STAND_INS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_CLASSES, Inert),
    "collections.defaultdict": _dictionary,
    "collections.Counter": _dictionary,
}


def load_any_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of the embedded engine or of Dassl onto the CPU; code in the file is never executed.

    One of the embedded engine must be whole to the bit. One of Dassl is compared with the CRC-32 of its entries;
    its schedulers and optimizers come back as :class:`Inert` objects.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or asks for more than plain values.
    """
    data = read_bytes(Path(path))
    content = decode(data, str(path), require_hash=False, stand_ins=STAND_INS)
    return decode(data, str(path)) if "format_version" in content else content
