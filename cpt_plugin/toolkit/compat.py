"""What today's torch needs before torchvision or the released Dassl can be imported.

Nothing on disk is edited: every fix is applied to the running process.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

from cpt_plugin._torchvision import APPLIED, prepare_torchvision

_REPAIRS = (
    "warm-up schedulers without `verbose`",
    "learning rate after a resume",
    "checkpoints without live objects",
    "numpy.int in augmentations",
    "log records not switched off",
)


def applied_fixes() -> tuple[str, ...]:
    """What this process has had repaired so far, in a few words each, for a log line."""
    return tuple(APPLIED)


def prepare_dassl() -> None:
    """Make the released Dassl importable and usable on current torch; call before importing ``dassl``.

    Fixes, each for a fault met by running it: torchvision's missing operators; the WILDS data sets, whose
    import needs two unused packages and switches off the process's log records; ``pkg_resources``, from which
    copies of CLIP take ``packaging`` and which setuptools no longer has.
    """
    prepare_torchvision()
    _stub_package("dassl.data.datasets.dg.wilds")
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        _stub_package("pkg_resources")
        importlib.import_module("packaging.version")
        sys.modules["pkg_resources"].packaging = sys.modules["packaging"]  # type: ignore[attr-defined]
        APPLIED.append("pkg_resources for CLIP")


def repair_dassl() -> None:
    """Repair an imported Dassl: warm-up schedulers, safe checkpoints, a resume that keeps its schedule.

    - ``LRScheduler.__init__`` lost its ``verbose`` argument, so every warm-up scheduler fails to construct.
    - Trainers without a registered model (zero-shot) fail to look for a checkpoint to resume.
    - Two augmentations use ``numpy.int``, which NumPy removed.
    - A warm-up scheduler stores its successor as a live object: checkpoints then hold arbitrary pickles, and a
      resumed successor drives a stale optimizer, which freezes the learning rate. Its plain numbers are
      stored and restored instead, so new checkpoints load with ``weights_only=True``.
    """
    from dassl.engine.trainer import TrainerBase
    from dassl.optim import lr_scheduler as schedulers

    if not hasattr(schedulers._BaseWarmupScheduler, "repaired_by_cpt_plugin"):
        _repair_warmup(schedulers._BaseWarmupScheduler)
        _repair_resume(TrainerBase)
        _repair_numpy("dassl.data.transforms.autoaugment", "dassl.data.transforms.randaugment")
        APPLIED.extend(_REPAIRS)
    logging.disable(logging.NOTSET)


def keep_header(trainer: Any) -> None:
    """Let Dassl's ``TrainerBase.save_model`` write ``checkpoint_header()`` of its trainer into every file as well.

    Args:
        trainer: the module ``dassl.engine.trainer``.
    """
    save_model: Callable[..., None] = trainer.TrainerBase.save_model

    @functools.wraps(save_model)
    def save_with_header(self: Any, *args: Any, **kwargs: Any) -> None:
        original, header = trainer.save_checkpoint, self.checkpoint_header()
        trainer.save_checkpoint = lambda state, *rest, **options: original({**header, **state}, *rest, **options)
        try:
            save_model(self, *args, **kwargs)
        finally:
            trainer.save_checkpoint = original

    trainer.TrainerBase.save_model = save_with_header


def _repair_warmup(warmup: Any) -> None:
    scheduler = warmup.__mro__[1]

    def __init__(
        self: Any, optimizer: Any, successor: Any, warmup_epoch: int, last_epoch: int = -1, verbose: bool = False
    ) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        scheduler.__init__(self, optimizer, last_epoch)

    def state_dict(self: Any) -> dict[str, Any]:
        own = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "successor") and _is_plain(v)}
        return {**own, "successor": self.successor.state_dict()}

    def load_state_dict(self: Any, state: dict[str, Any]) -> None:
        successor = state["successor"]
        plain = successor if isinstance(successor, dict) else successor.__dict__
        self.successor.__dict__.update({k: v for k, v in plain.items() if k != "optimizer" and _is_plain(v)})
        self.__dict__.update({k: v for k, v in state.items() if k not in ("optimizer", "successor")})

    warmup.__init__ = __init__
    warmup.state_dict = state_dict
    warmup.load_state_dict = load_state_dict
    warmup.repaired_by_cpt_plugin = True


def _repair_resume(trainer: Any) -> None:
    resume = trainer.resume_model_if_exist

    def resume_model_if_exist(self: Any, directory: str) -> int:
        return resume(self, directory) if self.get_model_names() else 0

    trainer.resume_model_if_exist = resume_model_if_exist


def _repair_numpy(*modules: str) -> None:
    import numpy

    for name in modules:
        module = importlib.import_module(name)
        module.np = types.SimpleNamespace(**{**vars(numpy), "int": int})  # type: ignore[attr-defined]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _stub_package(name: str) -> None:
    if name in sys.modules:
        return
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []  # type: ignore[attr-defined]
    module.__all__ = []  # type: ignore[attr-defined]
    sys.modules[name] = module
