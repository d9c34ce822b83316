"""What a regularizer is, and the registry that holds them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType

from torch import Tensor

from cpt_plugin._part_rules import is_scalar, place, shown
from cpt_plugin.errors import ConfigError
from cpt_plugin.functional._checks import integers
from cpt_plugin.parts import Part, Registry

Parts = dict[str, Tensor]


@dataclass
class FeatureBatch:
    """Raw (not normalized) features of one training step.

    Attributes:
        text: (K, d) text features of all classes, or (B, K, d) where they depend on the image.
        image: (B, d) image features.
        labels: (B,) whole numbers in 0 .. K-1: a tensor of any integer type, an array or a list; kept as int64 tensor.
            None will do where no part reads them.
        progress: finished steps as a fraction of all, in [0, 1); 0 where no regularizer `needs_progress`.

    Raises:
        FeatureError: the labels are no whole numbers.
    """

    text: Tensor
    image: Tensor
    labels: Tensor
    progress: float = 0.0

    def __post_init__(self) -> None:
        if self.labels is not None:
            self.labels = integers(self.labels, "labels")


class Regularizer(Part):
    """A sum of named, weighted loss terms on the features of a prompt learner.

    Attributes:
        needs_prototypes: whether `prepare_prototypes` is to be called, with class means of the training images.
        needs_counts: whether `prepare_counts` is to be called, with the number of training images of each class.
        needs_progress: whether it needs `FeatureBatch.progress`; a trainer that does not say how far it is is refused.
        gradient_fractions: parts that `compute` gives without a weight, and what the norm of their gradient is to be
            as a fraction of the main loss's; :class:`~cpt_plugin.hook.CPTHook` weighs them
            (:mod:`cpt_plugin.hook.balance`).
        gradient_momentum: 1 takes these norms once, less a running average of them.
    """

    needs_prototypes: bool = False
    needs_counts: bool = False
    needs_progress: bool = False
    gradient_fractions: Mapping[str, float] = MappingProxyType({})
    gradient_momentum: float = 1.0

    @abstractmethod
    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted parts, which sum to the total; a part of weight 0 is left out."""

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        """Take over what is fixed for a run: (K, d) features of frozen CLIP and the K class names."""

    def prepare_prototypes(self, prototypes: Tensor) -> None:
        """Take over the (K, d) class means of frozen unit image features; called after `prepare` if needed."""

    def prepare_counts(self, counts: Tensor) -> None:
        """Take over the (K,) numbers of training images of each class; called after `prepare` if needed."""

    def strength(self, batch: FeatureBatch) -> float:
        """Return the factor of all parts in this step, on top of their weights; balancing does not see it."""
        return 1.0

    def state_dict(self) -> dict[str, list[float]]:
        """Return what training has changed, for :meth:`load_state_dict` after an interruption."""
        return {}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with a :meth:`state_dict`."""

    def undeveloped(self, batch: FeatureBatch) -> set[str]:
        """Return those parts of `gradient_fractions` whose gradient on this batch says nothing about the next ones."""
        return set()

    def constant_parts(self) -> set[str]:
        """Return those parts that are the same for all features, as prepared; they regularize nothing."""
        return set()

    def remedy_of_constant_part(self, part: str) -> str:
        """Return what makes one of :meth:`constant_parts` regularize, as an imperative for messages; "" for nothing."""
        return ""

    def digest(self) -> str:
        """Return a hash of the state made by `prepare`, "" where there is none."""
        return ""


def checked_parts(regularizer: Regularizer, value: object) -> Parts:
    """Return what `compute` of a regularizer gave, if these are named scalars; whether they are finite is not asked.

    Raises:
        ConfigError: anything else, with the name and file of the regularizer.
    """
    wrong = "" if isinstance(value, dict) else f"{shown(value)}, not a dict"
    for name, part in value.items() if isinstance(value, dict) else ():
        if not isinstance(name, str):
            wrong = f"a part under {name!r}, not under a name"
        elif not is_scalar(part):
            wrong = f"{shown(part)} as part {name!r}, not a scalar tensor of floating point"
    if wrong:
        raise ConfigError(
            f"compute() of the regularizer {regularizer.name!r}, {place(type(regularizer))}, returned {wrong}: "
            'return a dict of named scalar tensors, such as {"spread": weight * loss}'
        )
    return value  # type: ignore[return-value]


def total(parts: Parts, like: Tensor) -> Tensor:
    """Return the sum of the parts, a scalar 0 on the device of `like` when there is none."""
    return reduce(add, parts.values()) if parts else like.new_zeros(())


REGISTRY: Registry[Regularizer] = Registry("regularizer", __package__, Regularizer)
register = REGISTRY.register
