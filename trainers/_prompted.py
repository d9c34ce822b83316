"""CLIP read through learnable prompts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, ImagePrompts, TextEncoder, TextPrompts
from cpt_plugin.encoders.text import MEMORY_GIB


class PromptLearner(nn.Module):
    """Learnable prompts of one method: all of its parameters, and nothing of CLIP's.

    Only float32 parameters whose shapes do not depend on the class names belong into its state dict, unless
    the method is class-specific by definition; ``class_specific`` then says so. ``conditional`` says that the text
    prompts depend on the image.
    """

    class_specific = False
    conditional = False

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        """Text prompts of all K classes; ``image``, (B, d) unit image features, is read by conditional ones only."""
        raise TypeError(f"{type(self).__name__} does not define text_prompts()")

    def image_prompts(self) -> ImagePrompts | None:
        """Visual prompts; None if the method has none."""
        return None


class Prediction(NamedTuple):
    """What one pass gives: (B, K) logits, (B, d) unit image features, unit text features (K, d) or (B, K, d)."""

    logits: Tensor
    image: Tensor
    text: Tensor


class PromptedCLIP(nn.Module):
    """Frozen CLIP read through learnable prompts: logits = exp(logit_scale) * cos(image, text)."""

    def __init__(self, clip: FrozenCLIP, prompt_learner: PromptLearner, memory_gib: float = MEMORY_GIB) -> None:
        super().__init__()
        self.prompt_learner = prompt_learner
        self.text_encoder = TextEncoder(clip, memory_gib=memory_gib)
        self.image_encoder = ImageEncoder(clip)
        self.logit_scale = clip.logit_scale

    def forward(
        self,
        image: Tensor,
        label: Tensor | None = None,
        with_features: bool = False,
        classes: Tensor | None = None,
    ) -> Any:
        """(B, 3, H, W) images -> (B, K) logits over the classes of the prompt learner.

        Args:
            image: images in CLIP's normalization.
            label: (B,) their labels, which a hook on this module may read; not used here.
            with_features: return a :class:`Prediction` instead of the logits alone.
            classes: the only classes to encode; the others have the logit -inf and no text feature.
        """
        features = F.normalize(self.image_encoder(image, self.prompt_learner.image_prompts()), dim=-1)
        prompts = self.prompt_learner.text_prompts(features)
        text = self._encoded(prompts if classes is None else prompts.select(classes), features)
        if text.ndim == 3:
            logits = self.logit_scale * torch.einsum("bd,bkd->bk", features, text)
        else:
            logits = self.logit_scale * features @ text.t()
        if classes is not None:
            everywhere = logits.new_full((len(logits), len(prompts.tokens)), float("-inf"))
            logits = everywhere.index_copy(1, classes, logits)
        return Prediction(logits, features, text) if with_features else logits

    def text_features(self, image: Tensor) -> Tensor:
        """Unit text features (K, d), or (B, K, d) where they depend on the unit image features (B, d)."""
        return self._encoded(self.prompt_learner.text_prompts(image), image)

    def _encoded(self, prompts: TextPrompts, image: Tensor) -> Tensor:
        return F.normalize(self.text_encoder(prompts), dim=-1).to(image.dtype)
