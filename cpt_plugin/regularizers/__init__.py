"""Regularizers: loss terms that are added to any prompt learner.

Write your own in ten lines. Put a file into this folder; its name is the regularizer's name. Nothing else
needs an edit: the file is found, its settings appear in the configuration, and its name can be part of a
method's name. This is a complete `spread.py`::

    from cpt_plugin.functional import etf_separation
    from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register

    @register
    class Spread(Regularizer):
        name, config_node, paper = "spread", "SPREAD", "none"
        description = "one simplex over all classes"

        def __init__(self, weight: float = 0.1) -> None:  # the key SPREAD.WEIGHT
            self.weight = weight

        @property
        def active(self) -> bool:
            return self.weight > 0

        def compute(self, batch: FeatureBatch) -> Parts:
            one_cluster = batch.labels.new_zeros(batch.text.shape[-2])
            return {"spread": self.weight * etf_separation(batch.text, one_cluster, "pair_mean")}

Add `prepare`, `digest` and `describe` where something is made once a run (see `cpt.py`). Names of parts
should be unique over all regularizers, because several can be used together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from cpt_plugin._names import hint
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.regularizers.base import (
    REGISTRY,
    FeatureBatch,
    Parts,
    Regularizer,
    register,
    total,
)

__all__ = ["REGISTRY", "FeatureBatch", "Parts", "Regularizer", "available", "build", "register", "total"]


def available() -> dict[str, type[Regularizer]]:
    """Return every regularizer of this folder by name, in alphabetical order.

    Raises:
        ConfigError: a file does not define exactly one regularizer under the file's name, or cannot be imported.
    """
    files = [module.name for module in iter_modules(__path__)]
    for stem in files:
        if stem != "base" and not stem.startswith("_"):
            _load(stem)
    return dict(sorted(REGISTRY.items()))


def build(names: Iterable[str], cfg: Mapping[str, Any]) -> list[Regularizer]:
    """Build the named regularizers from their nodes in `cfg`, in alphabetical order whatever the order given.

    A node that is missing in `cfg` means all defaults.

    Raises:
        ConfigError: a name is unknown or given twice, or a setting is wrong.
    """
    known = available()
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"unknown regularizer {name!r}; {hint(name, known)}")
        if wanted.count(name) > 1:
            raise ConfigError(f"regularizer {name!r} is given {wanted.count(name)} times; name it once")
    nodes = {name: known[name].config_node for name in sorted(wanted)}
    return [known[name].from_config(cfg.get(node, {})) for name, node in nodes.items()]


def _load(stem: str) -> None:
    try:
        module = import_module(f"{__name__}.{stem}")
    except CPTError:
        raise
    except Exception as error:
        raise ConfigError(
            f"regularizers/{stem}.py cannot be imported: {type(error).__name__}: {error}; correct or remove that file"
        ) from error
    defined = [name for name, cls in REGISTRY.items() if cls.__module__ == module.__name__]
    if defined != [stem]:
        found = ", ".join(map(repr, defined)) or "none"
        raise ConfigError(f"{module.__file__} must register one regularizer, {stem!r}; found {found}")


available()
