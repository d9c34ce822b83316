"""Names of prompt learners, their configuration nodes, and their regularized variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from yacs.config import CfgNode

from cpt_plugin import regularizers
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import TRAINER_REGISTRY
from trainers._regularized import regularized

PROMPT_LEARNERS: dict[str, type] = {}
_VARIANTS: dict[tuple[str, tuple[str, ...]], type] = {}


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


def register_regularized() -> None:
    """Register every trainable prompt learner with every single regularizer."""
    for name, cls in PROMPT_LEARNERS.items():
        if cls.trainable:  # type: ignore[attr-defined]
            for regularizer in regularizers.available():
                trainer_name(name, (regularizer,))


def trainer_name(prompt_learner_name: str, regularizer_names: Sequence[str] = ()) -> str:
    """Registered name of a prompt learner with any set of regularizers; made on first use.

    Raises:
        ConfigError: no such prompt learner, or regularizers on one that trains nothing.
    """
    if prompt_learner_name not in PROMPT_LEARNERS:
        raise ConfigError(f"No prompt learner {prompt_learner_name!r}; there are {', '.join(PROMPT_LEARNERS)}.")
    base = PROMPT_LEARNERS[prompt_learner_name]
    names = tuple(sorted(regularizer_names))
    if not names:
        return base.__name__
    if not base.trainable:  # type: ignore[attr-defined]
        raise ConfigError(f"{prompt_learner_name!r} trains nothing, so it takes no regularizer.")
    if (prompt_learner_name, names) not in _VARIANTS:
        variant = regularized(base, names)
        TRAINER_REGISTRY.register()(variant)
        _VARIANTS[prompt_learner_name, names] = variant
    return _VARIANTS[prompt_learner_name, names].__name__


def extend_cfg(cfg: Any) -> None:
    """Add the nodes of all prompt learners (``TRAINER.COOP``, ...) and regularizers (``CPT``, ...) to ``cfg``."""
    for cls in PROMPT_LEARNERS.values():
        if cls.config_node:  # type: ignore[attr-defined]
            cfg.TRAINER[cls.config_node] = CfgNode(dict(cls.defaults))  # type: ignore[attr-defined]
    for regularizer in regularizers.available().values():
        cfg[regularizer.config_node] = CfgNode(regularizer.defaults())
