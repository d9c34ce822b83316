"""Zero-shot CLIP: the class names in the data set's template, nothing trained (Radford et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, check_class_texts, dataset_template
from trainers._base import CLIPTrainer
from trainers._registry import prompt_learner


class FixedTextCLIP(nn.Module):
    """Frozen CLIP over classes whose unit text features (K, d) are given."""

    def __init__(self, clip: FrozenCLIP, text: Tensor) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(clip)
        self.logit_scale = clip.logit_scale
        self.text = text

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) images -> (B, K) logits."""
        features = F.normalize(self.image_encoder(image), dim=-1)
        return self.logit_scale * features @ self.text.t()


@prompt_learner("zeroshot")
class ZeroshotCLIP(CLIPTrainer):
    """Zero-shot CLIP with the data set's single template."""

    trainable = False
    prompts_images = False

    @classmethod
    def reads(cls, key: str) -> bool:
        return super().reads(key) and key.partition(".")[0] not in ("OPTIM", "TRAIN") and key != "TEST.FINAL_MODEL"

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        check_class_texts(class_names, dataset_template(cfg))

    def build_model(self) -> None:
        self.clip = self.load_frozen_clip("fp32")
        self.model = FixedTextCLIP(self.clip, F.normalize(self.frozen_text_features(), dim=-1))

    def train(self) -> None:
        """Nothing to train: evaluate."""
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Nothing to load."""
