"""What a regularizer is, and the registry that holds them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType

from torch import Tensor

from cpt_plugin.parts import Part, Registry

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


class Regularizer(Part):
    """A sum of named, weighted loss terms on the features of a prompt learner.

    Attributes:
        needs_prototypes: whether `prepare_prototypes` is to be called, with class means of the training images.
        gradient_fractions: parts that `compute` gives without a weight, and what the norm of their gradient is to be
            as a fraction of the main loss's; :class:`~cpt_plugin.hook.CPTHook` weighs them
            (:mod:`cpt_plugin.balance`).
        gradient_momentum: 1 takes these norms once, less a running average of them.
    """

    needs_prototypes: bool = False
    gradient_fractions: Mapping[str, float] = MappingProxyType({})
    gradient_momentum: float = 1.0

    @abstractmethod
    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted parts, which sum to the total; a part of weight 0 is left out."""

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        """Take over what is fixed for a run: (K, d) features of frozen CLIP and the K class names."""

    def prepare_prototypes(self, prototypes: Tensor) -> None:
        """Take over the (K, d) class means of frozen unit image features; called after `prepare` if needed."""

    def undeveloped(self, batch: FeatureBatch) -> set[str]:
        """Return those parts of `gradient_fractions` whose gradient on this batch says nothing about the next ones."""
        return set()

    def digest(self) -> str:
        """Return a hash of the state made by `prepare`, "" where there is none."""
        return ""


def total(parts: Parts, like: Tensor) -> Tensor:
    """Return the sum of the parts, a scalar 0 on the device of `like` when there is none."""
    return reduce(add, parts.values()) if parts else like.new_zeros(())


REGISTRY: Registry[Regularizer] = Registry("regularizer", __package__)
register = REGISTRY.register
