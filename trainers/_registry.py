"""Names of prompt learners, their configuration nodes, their second stages and their regularized variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from yacs.config import CfgNode

from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import parse_method
from cpt_plugin.toolkit import TRAINER_REGISTRY
from trainers._controlled import controlled
from trainers._long_tail import with_loss
from trainers._parts import KINDS, available_parts, in_order, part_names
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
    """Register every trainable prompt learner and its second stage, alone and with every single part."""
    for name, cls in PROMPT_LEARNERS.items():
        if cls.trainable:  # type: ignore[attr-defined]
            for dpc in (False, True):
                for added in ((), *((part,) for part in available_parts())):
                    trainer_name(name, added, dpc)


def trainer_name(prompt_learner_name: str, part_names: Sequence[str] = (), dpc: bool = False) -> str:
    """Registered name of a prompt learner or its second stage with any set of parts; made on first use.

    Raises:
        ConfigError: no such prompt learner or part, or a second stage or parts on one that trains nothing.
    """
    if prompt_learner_name not in PROMPT_LEARNERS:
        raise ConfigError(f"No prompt learner {prompt_learner_name!r}; there are {', '.join(PROMPT_LEARNERS)}.")
    base = PROMPT_LEARNERS[prompt_learner_name]
    names = in_order(part_names)
    if (names or dpc) and not base.trainable:  # type: ignore[attr-defined]
        raise ConfigError(f"{prompt_learner_name!r} trains nothing, so it takes no second stage and no parts.")
    return _variant(prompt_learner_name, dpc, names).__name__


def register_named(trainer: str) -> None:
    """Register the variant that a name like ``CoOpDPCLACPT`` means, if it means one.

    Raises:
        ConfigError: its parts do not go together, or stand in another order than they should.
    """
    for name, cls in PROMPT_LEARNERS.items():
        stage = f"{cls.__name__}{NODE}"
        base = stage if trainer.startswith(stage) else cls.__name__
        parts = _taken_apart(trainer.removeprefix(base)) if trainer.startswith(base) else None
        if parts:
            method = parse_method("_".join([name, *([NODE.lower()] if base == stage else []), *parts]))
            registered = trainer_name(name, method.parts, method.dpc)
            if registered != trainer:
                raise ConfigError(f"no trainer {trainer!r}: its parts stand in another order, {registered}")


def _taken_apart(suffix: str) -> list[str] | None:
    """Parts whose names in capitals make up the suffix; None when none do."""
    if not suffix:
        return []
    for part in sorted(part_names(), key=len, reverse=True):
        if suffix.startswith(part.upper()):
            tail = _taken_apart(suffix[len(part) :])
            if tail is not None:
                return [part, *tail]
    return None


def _variant(name: str, dpc: bool, names: tuple[str, ...]) -> type:
    if not dpc and not names:
        return PROMPT_LEARNERS[name]
    key = name, dpc, names
    if key not in _VARIANTS:
        made = _with_parts(name, dpc, names) if names else second_stage(PROMPT_LEARNERS[name])
        _VARIANTS[key] = TRAINER_REGISTRY.register()(made)
    return _VARIANTS[key]


def _with_parts(name: str, dpc: bool, names: tuple[str, ...]) -> type:
    """The variant with all parts but those of the last kind, and these on it."""
    makers = (with_loss, regularized, controlled)
    by_kind = [tuple(part for part in names if part in kind.available()) for kind in KINDS]
    last = max(index for index, own in enumerate(by_kind) if own)
    before = tuple(part for own in by_kind[:last] for part in own)
    return makers[last](_variant(name, dpc, before), by_kind[last])


def extend_cfg(cfg: Any, asked: Iterable[str] = ()) -> None:
    """Add the nodes of all prompt learners (``TRAINER.COOP``, ...), of DPC, and of all parts (``CPT``, ``LA``, ...).

    asked: names of parts; those of other packages are imported, so that their nodes are among them.
    """
    cfg.TRAINER[NODE] = CfgNode(dict(DEFAULTS))
    for cls in PROMPT_LEARNERS.values():
        if cls.config_node:  # type: ignore[attr-defined]
            cfg.TRAINER[cls.config_node] = CfgNode(dict(cls.defaults))  # type: ignore[attr-defined]
    for part in available_parts(asked).values():
        cfg[part.config_node] = CfgNode(part.defaults())
