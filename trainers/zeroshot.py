"""Zero-shot CLIP: the class names in the data set's template, nothing trained (Radford et al., ICML 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.encoders import ImageEncoder, TextEncoder
from trainers._base import CLIPTrainer
from trainers._registry import prompt_learner


class FixedTextCLIP(nn.Module):
    """Frozen CLIP with the text features of its classes computed once."""

    def __init__(self, text_encoder: TextEncoder, image_encoder: ImageEncoder, logit_scale: Tensor) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.logit_scale = logit_scale
        self.text: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        features = F.normalize(self.image_encoder(image), dim=-1)
        return self.logit_scale * features @ self.text.to(features.dtype).t()


@prompt_learner("zeroshot")
class ZeroshotCLIP(CLIPTrainer):
    """Zero-shot CLIP with the data set's single template."""

    trainable = False

    def build_model(self) -> None:
        self.clip = self.load_frozen_clip("fp32")
        scale = self.clip.model.logit_scale.detach().float().exp()
        self.model = FixedTextCLIP(TextEncoder(self.clip), ImageEncoder(self.clip), scale).to(self.device)
        self.model.text = F.normalize(self.frozen_text_features().float(), dim=-1)

    def train(self) -> None:
        """Nothing to train: evaluate."""
        self.test()

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        return self.model(image)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Nothing to load."""
