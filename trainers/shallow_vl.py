"""DAPT's prompts: learned vectors in the first layer of both encoders (ICCV 2023, arXiv 2309.03406)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cpt_plugin.encoders import ClassTokens, FrozenCLIP, ImagePrompts, ModelSizes, TextPrompts, check_prompts
from trainers._base import PromptTrainer
from trainers._prompted import PromptLearner
from trainers._prompts import random_vectors
from trainers._registry import prompt_learner


class ShallowPrompts(PromptLearner):
    """Text context (P_t, w_t) from N(0, 0.02^2) and visual tokens (P_v, w_v) from U(-a, a), both in layer 1 only.

    a = sqrt(6 / (3 p^2 + w_v)) with patch size p (Xavier's bound for a patch embedding; VPT, ECCV 2022). The visual
    tokens stand behind the first layer norm.
    """

    def __init__(self, clip: FrozenCLIP, class_names: list[str], n_ctx_text: int, n_ctx_vision: int) -> None:
        super().__init__()
        clip.check_depth(vision=1)
        self.tokens = ClassTokens.build(clip, class_names, n_ctx_text)
        patch = clip.model.visual.conv1.weight.shape[-1]
        bound = (6 / (3 * patch**2 + clip.vision_width)) ** 0.5
        self.vis_ctx = nn.Parameter(bound * (2 * torch.rand(n_ctx_vision, clip.vision_width) - 1))
        self.txt_ctx = nn.Parameter(random_vectors(n_ctx_text, clip.text_width))

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        return TextPrompts(self.tokens, self.txt_ctx)

    def image_prompts(self) -> ImagePrompts:
        return ImagePrompts(self.vis_ctx, after_norm=True)


@prompt_learner("shallow_vl")
class ShallowVL(PromptTrainer):
    """Shallow prompts in both encoders: what DAPT trains, here with cross-entropy alone."""

    config_node = "SHALLOW_VL"
    visual_depth = 1
    defaults: ClassVar[dict[str, Any]] = {"N_CTX_VISION": 16, "N_CTX_TEXT": 16, "PREC": "fp16"}

    @classmethod
    def check_model(cls, cfg: Any, sizes: ModelSizes) -> None:
        sizes.check_depth(vision=cls.visual_depth)

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        check_prompts(class_names, cfg.TRAINER[cls.config_node].N_CTX_TEXT)

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        return ShallowPrompts(clip, class_names, self.options.N_CTX_TEXT, self.options.N_CTX_VISION)
