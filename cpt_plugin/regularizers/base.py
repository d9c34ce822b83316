"""What a regularizer is, and the registry that holds them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from cpt_plugin._names import hint
from cpt_plugin.errors import ConfigError

Parts = dict[str, Tensor]


@dataclass
class FeatureBatch:
    """Raw (not normalized) features of one training step.

    Attributes:
        text: (K, d) text features of all classes, or (B, K, d) where they depend on the image.
        image: (B, d) image features.
        labels: (B,) integers in 0 .. K-1.
    """

    text: Tensor
    image: Tensor
    labels: Tensor


class Regularizer(ABC):
    """A sum of named, weighted loss terms on the features of a prompt learner.

    The keyword arguments of the constructor are the settings, and their defaults the default configuration:
    `weight_etf: float = 0.25` is the key `WEIGHT_ETF` of the node `config_node`.

    Attributes:
        name: the registered name; equals the name of the file.
        paper: where it comes from.
        description: one line.
        config_node: the configuration node that holds its settings.
        needs_prototypes: whether `prepare_prototypes` is to be called, with class means of the training images.
        gradient_fractions: parts that `compute` gives without a weight, and what the norm of their gradient is to be
            as a fraction of the main loss's; :class:`~cpt_plugin.hook.CPTHook` weighs them
            (:mod:`cpt_plugin.balance`).
        gradient_momentum: 1 takes these norms once, less a running average of them.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    description: ClassVar[str]
    config_node: ClassVar[str]
    needs_prototypes: bool = False
    gradient_fractions: Mapping[str, float] = MappingProxyType({})
    gradient_momentum: float = 1.0

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the settings in upper case with their default values."""
        parameters = inspect.signature(cls).parameters.values()
        return {parameter.name.upper(): parameter.default for parameter in parameters}

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> Self:
        """Build the regularizer from a configuration node; a missing key keeps its default.

        Raises:
            ConfigError: a key is unknown, or a value has another type than its default.
        """
        settings = cls.defaults()
        for key in node:
            if key not in settings:
                raise ConfigError(f"{cls.config_node}.{key} is unknown; {hint(key, settings)}")
            settings[key] = _typed(f"{cls.config_node}.{key}", node[key], settings[key])
        return cls(**{key.lower(): value for key, value in settings.items()})

    @property
    @abstractmethod
    def active(self) -> bool:
        """False when every weight is 0; the regularizer is then treated as absent."""

    @abstractmethod
    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted parts, which sum to the total; a part of weight 0 is left out."""

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:  # noqa: B027
        """Take over what is fixed for a run: (K, d) features of frozen CLIP and the K class names."""

    def prepare_prototypes(self, prototypes: Tensor) -> None:  # noqa: B027
        """Take over the (K, d) class means of frozen unit image features; called after `prepare` if needed."""

    def undeveloped(self, batch: FeatureBatch) -> set[str]:
        """Return those parts of `gradient_fractions` whose gradient on this batch says nothing about the next ones."""
        return set()

    def digest(self) -> str:
        """Return a hash of the state made by `prepare`, "" where there is none."""
        return ""

    def describe(self) -> list[str]:
        """Return the log lines that say what `prepare` has made."""
        return []


def total(parts: Parts, like: Tensor) -> Tensor:
    """Return the sum of the parts, a scalar 0 on the device of `like` when there is none."""
    return reduce(add, parts.values()) if parts else like.new_zeros(())


R = TypeVar("R", bound=type[Regularizer])
REGISTRY: dict[str, type[Regularizer]] = {}


def register(cls: R) -> R:
    """Enter a regularizer class in the registry under its `name` (class decorator).

    Raises:
        ConfigError: name or configuration node is missing, or belongs to another class.
    """
    for attribute in ("name", "paper", "description", "config_node"):
        if not getattr(cls, attribute, ""):
            raise ConfigError(f"{cls.__module__}.{cls.__qualname__} lacks the attribute {attribute!r}")
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.default is parameter.empty:
            raise ConfigError(f"regularizer {cls.name!r}: give setting {parameter.name!r} a default value")
    for other in REGISTRY.values():
        same = (other.__module__, other.__qualname__) == (cls.__module__, cls.__qualname__)
        if not same and (other.name == cls.name or other.config_node == cls.config_node):
            raise ConfigError(
                f"regularizer {cls.name!r} ({cls.__module__}) and {other.name!r} ({other.__module__}) "
                f"share their name or their configuration node {cls.config_node!r}; rename one"
            )
    REGISTRY[cls.name] = cls
    return cls


def _typed(key: str, value: Any, default: Any) -> Any:
    """Return the value as the type of its default; an integer may stand for a float."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{key} must be {type(default).__name__}, got {type(value).__name__} {value!r}")
    return value
