"""Reads checkpoints as the released Dassl writes them, without running anything that a file asks for."""

from __future__ import annotations

import importlib
import os
import pickle
import types
import zipfile
from pathlib import Path
from typing import IO, Any

from cpt_plugin.errors import CheckpointError

_PLAIN = {
    ("builtins", "dict"),
    ("builtins", "set"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
}


class _Unpickler(pickle.Unpickler):
    """Knows tensors, plain containers and numbers, and torch's own optimizers and schedulers; refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("__builtin__", "builtins"), name) in _PLAIN:
            return super().find_class(module, name)
        if module.startswith("torch.optim."):
            from torch.optim import Optimizer, lr_scheduler

            found = super().find_class(module, name)
            if isinstance(found, type) and issubclass(found, (Optimizer, lr_scheduler.LRScheduler)):
                return found
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE = types.SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__=__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Contents of a checkpoint of Dassl, with live schedulers and optimizers of torch allowed in it.

    Before this project's repairs Dassl stored the schedule after a warm-up as an object; ``torch.load`` has refused
    such files since torch 2.6, and pickle itself would run whatever a file names. Here a short list of classes is
    allowed, and everything lands on the CPU where there is no GPU.

    Raises:
        CheckpointError: the file is missing or damaged, or asks for anything else.
    """
    import torch

    place = None if torch.cuda.is_available() else "cpu"
    try:
        _refuse_programs(path)
        return torch.load(path, map_location=place, weights_only=False, pickle_module=_PICKLE)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"Cannot read the checkpoint {path} ({reason}): it is missing, damaged, or holds objects that could run "
            "code. If you trust where it comes from, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1."
        ) from error


def _refuse_programs(path: str | Path) -> None:
    """Raise UnpicklingError for a TorchScript archive, which ``torch.load`` would hand to ``torch.jit.load``."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist()):
                raise pickle.UnpicklingError("it is a TorchScript program")


def install() -> None:
    """Let Dassl, and what imports from it later, read checkpoints with :func:`read_checkpoint`.

    Leaves Dassl alone where TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD asks for pickle itself. Missing files stay Dassl's errors.
    """
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0") not in ("", "0"):
        return
    tools = importlib.import_module("dassl.utils.torchtools")
    original = tools.load_checkpoint

    def load_checkpoint(fpath: Any) -> Any:
        return read_checkpoint(fpath) if fpath and os.path.exists(fpath) else original(fpath)

    for module in (tools, importlib.import_module("dassl.utils"), importlib.import_module("dassl.engine.trainer")):
        module.load_checkpoint = load_checkpoint  # type: ignore[attr-defined]
