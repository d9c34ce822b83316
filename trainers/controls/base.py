"""What a control is, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from cpt_plugin.parts import Part, Registry


class Control(Part):
    """A change to how a method is trained or evaluated; see :class:`~cpt_plugin.parts.Part`.

    Attributes:
        trains: whether training differs from that of the method without it.
        settings: configuration keys that it sets, with their values.
    """

    trains: ClassVar[bool]
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def model_built(self, trainer: Any) -> None:
        """Change the trainer's model; called once, before prompts are loaded."""

    def adjust(self, logits: Tensor, trainer: Any) -> Tensor:
        """Return (B, K) logits in evaluation."""
        return logits


REGISTRY: Registry[Control] = Registry("control", __package__, Control)
register = REGISTRY.register
