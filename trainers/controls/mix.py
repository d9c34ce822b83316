"""Mix: text features partly zero-shot CLIP's, partly tuned; evaluation only (weights: WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin._numbers import number
from trainers.controls.base import Control, register


class MixedTextEncoder(nn.Module):
    """Text features (1 - fraction) g + fraction g0 of unit features g of an encoder and fixed ones g0, (K, d)."""

    def __init__(self, encoder: nn.Module, fixed: Tensor, fraction: float) -> None:
        super().__init__()
        self.encoder, self.fixed, self.fraction = encoder, fixed, fraction

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        tuned = F.normalize(self.encoder(*inputs, **options).to(self.fixed.dtype), dim=-1)
        return (1 - self.fraction) * tuned + self.fraction * self.fixed


@register
class Mix(Control):
    """Evaluates (1 - fraction) g + fraction g0, scaled to length 1: g tuned, g0 zero-shot unit text features.

    Over DPC, g are the features of its mixture of prompts.

    Args:
        fraction: of zero-shot, in [0, 1]; 0 evaluates the prompts as they are.
        template: sentence of the zero-shot features; empty for the data set's own.

    Raises:
        ConfigError: the fraction is out of range.
    """

    name = "mix"
    paper = "a control of ours; in weights: WiSE-FT, Wortsman et al., CVPR 2022 (arXiv 2109.01903)"
    description = "text features half zero-shot, half tuned; evaluated from the prompts of the method without it"
    config_node = "MIX"
    trains = False

    def __init__(self, fraction: float = 0.5, template: str = "") -> None:
        self.fraction, self.template = number("MIX.FRACTION", fraction, least=0, most=1), template

    @property
    def active(self) -> bool:
        """Whether the fraction is not 0."""
        return self.fraction > 0

    def model_built(self, trainer: Any) -> None:
        fixed = F.normalize(trainer.frozen_text_features(self.template or None), dim=-1)
        trainer.model.text_encoder = MixedTextEncoder(trainer.model.text_encoder, fixed, self.fraction)

    def describe(self) -> list[str]:
        return [f"mix: text features {self.fraction:g} zero-shot, {1 - self.fraction:g} tuned"]
