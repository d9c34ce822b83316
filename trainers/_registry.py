"""Names of prompt learners, their configuration nodes, their second stages and their regularized variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from yacs.config import CfgNode

from cpt_plugin import regularizers
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import TRAINER_REGISTRY
from trainers._regularized import regularized
from trainers.dpc import DEFAULTS, NODE, second_stage

PROMPT_LEARNERS: dict[str, type] = {}
_VARIANTS: dict[tuple[str, bool, tuple[str, ...]], type] = {}


def prompt_learner(name: str) -> Callable[[type], type]:
    """Register a trainer class under its own name and under ``name``, its part in a method's name.

    The class may carry ``config_node`` (e.g. ``"COOP"``) and ``defaults`` (upper-case keys of that node).
    """

    def register(cls: type) -> type:
        if name in PROMPT_LEARNERS:
            raise ConfigError(f"Two trainers claim the prompt learner {name!r}; rename one of them.")
        TRAINER_REGISTRY.register()(cls)
        PROMPT_LEARNERS[name] = cls
        return cls

    return register


def register_variants() -> None:
    """Register every trainable prompt learner and its second stage, alone and with every single regularizer."""
    for name, cls in PROMPT_LEARNERS.items():
        if cls.trainable:  # type: ignore[attr-defined]
            for dpc in (False, True):
                for added in ((), *((regularizer,) for regularizer in regularizers.available())):
                    trainer_name(name, added, dpc)


def trainer_name(prompt_learner_name: str, regularizer_names: Sequence[str] = (), dpc: bool = False) -> str:
    """Registered name of a prompt learner or its second stage with any set of regularizers; made on first use.

    Raises:
        ConfigError: no such prompt learner, or a second stage or regularizers on one that trains nothing.
    """
    if prompt_learner_name not in PROMPT_LEARNERS:
        raise ConfigError(f"No prompt learner {prompt_learner_name!r}; there are {', '.join(PROMPT_LEARNERS)}.")
    base = PROMPT_LEARNERS[prompt_learner_name]
    names = tuple(sorted(regularizer_names))
    if (names or dpc) and not base.trainable:  # type: ignore[attr-defined]
        raise ConfigError(f"{prompt_learner_name!r} trains nothing, so it takes no second stage and no regularizer.")
    return _variant(prompt_learner_name, dpc, names).__name__


def _variant(name: str, dpc: bool, names: tuple[str, ...]) -> type:
    if not dpc and not names:
        return PROMPT_LEARNERS[name]
    key = name, dpc, names
    if key not in _VARIANTS:
        made = regularized(_variant(name, dpc, ()), names) if names else second_stage(PROMPT_LEARNERS[name])
        _VARIANTS[key] = TRAINER_REGISTRY.register()(made)
    return _VARIANTS[key]


def extend_cfg(cfg: Any) -> None:
    """Add the nodes of all prompt learners (``TRAINER.COOP``, ...), of DPC, and of regularizers (``CPT``, ...)."""
    cfg.TRAINER[NODE] = CfgNode(dict(DEFAULTS))
    for cls in PROMPT_LEARNERS.values():
        if cls.config_node:  # type: ignore[attr-defined]
            cfg.TRAINER[cls.config_node] = CfgNode(dict(cls.defaults))  # type: ignore[attr-defined]
    for regularizer in regularizers.available().values():
        cfg[regularizer.config_node] = CfgNode(regularizer.defaults())
