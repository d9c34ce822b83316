"""Name-to-class registries with Dassl's interface, and the ``build_*`` functions that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from cpt_plugin._names import hint
from cpt_plugin.errors import ConfigError

T = TypeVar("T")


class RegistryError(ConfigError, KeyError):
    """A name is unknown to a registry, or registered twice (also a :class:`KeyError`, as in Dassl)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Registry:
    """Maps names to classes or functions; the name of an entry is its ``__name__``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    @overload
    def register(self, obj: T, force: bool = ...) -> T: ...
    @overload
    def register(self, obj: None = ..., force: bool = ...) -> Callable[[T], T]: ...
    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Adds a class or function, called directly or as a decorator.

        Raises:
            RegistryError: the name is taken and ``force`` is false.
        """
        if obj is None:
            return lambda entry: self.register(entry, force=force)
        name = obj.__name__
        if name in self._entries and not force:
            raise RegistryError(
                f"{name!r} is already registered in {self._name}; pass force=True to replace it"
            )
        self._entries[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """Returns the entry called ``name``.

        Raises:
            RegistryError: there is no such entry; the message gives the nearest name.
        """
        if name in self._entries:
            return self._entries[name]
        raise RegistryError(f"{self._name} has no {name!r}; {hint(name, self.registered_names())}")

    def registered_names(self) -> list[str]:
        return list(self._entries)


TRAINER_REGISTRY = Registry("TRAINER")
DATASET_REGISTRY = Registry("DATASET")
EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_trainer(cfg: Any, name: str | None = None) -> Any:
    """Builds the trainer ``cfg.TRAINER.NAME``, or ``name`` where a trainer needs a second one."""
    return TRAINER_REGISTRY.get(name or cfg.TRAINER.NAME)(cfg)


def build_dataset(cfg: Any) -> Any:
    """Builds the data set ``cfg.DATASET.NAME``."""
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)


def build_evaluator(cfg: Any, **kwargs: Any) -> Any:
    """Builds the evaluator ``cfg.TEST.EVALUATOR``."""
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)
