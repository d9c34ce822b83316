"""What a long-tail loss is, and the registry that holds them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from cpt_plugin._part_rules import is_scalar, place, shown
from cpt_plugin.errors import ConfigError
from cpt_plugin.functional._checks import integers
from cpt_plugin.parts import Part, Registry


@dataclass
class LogitBatch:
    """What a classification loss may read in one training step.

    Attributes:
        logits: (B, K), scaled cosines.
        labels: (B,) whole numbers in 0 .. K-1: a tensor of any integer type, an array or a list; kept as int64 tensor.
        counts: (K,) training images of each class.
        scale: the factor between cosines and logits.
        progress: finished epochs as a fraction of all, in [0, 1).

    Raises:
        FeatureError: the labels are no whole numbers.
    """

    logits: Tensor
    labels: Tensor
    counts: Tensor
    scale: float | Tensor = 1.0
    progress: float = 0.0

    def __post_init__(self) -> None:
        self.labels = integers(self.labels, "labels")


class LongTailLoss(Part):
    """A classification loss that knows how many images each class has; see :class:`~cpt_plugin.parts.Part`."""

    @abstractmethod
    def compute(self, batch: LogitBatch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""


def checked_loss(loss: LongTailLoss, value: object) -> Tensor:
    """Return what `compute` of a long-tail loss gave, if it is a scalar; whether it is finite is not asked.

    Raises:
        ConfigError: anything else, with the name and file of the loss.
    """
    if not is_scalar(value):
        raise ConfigError(
            f"compute() of the long-tail loss {loss.name!r}, {place(type(loss))}, returned {shown(value)}: "
            "return the mean over the batch, a scalar tensor of floating point"
        )
    return value  # type: ignore[return-value]


REGISTRY: Registry[LongTailLoss] = Registry("long-tail loss", __package__, LongTailLoss)
register = REGISTRY.register
