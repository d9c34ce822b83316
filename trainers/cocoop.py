"""CoCoOp: context words that a small network shifts for every image (Zhou et al., CVPR 2022, arXiv 2203.05557)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cpt_plugin.encoders import FrozenCLIP, TextPrompts
from trainers._prompted import PromptLearner
from trainers._registry import prompt_learner
from trainers.coop import ContextPrompts, CoOp

EVALUATION_TEXTS = 1024
"""Class texts encoded at once in evaluation: about 1 GiB of activations on ViT-B/16 in float32."""


class ConditionalPrompts(ContextPrompts):
    """Context vectors shared by all classes, (P, w), plus one vector that depends on the image x (section 3.2).

    Every context vector of image x is v_p(x) = v_p + pi(x) with the meta-net pi = Linear(d, d // 16), ReLU,
    Linear(d // 16, w) on the unit image feature. So the texts are encoded once an image.
    """

    conditional = True

    def __init__(self, clip: FrozenCLIP, class_names: list[str], n_ctx: int, ctx_init: str) -> None:
        super().__init__(clip, class_names, n_ctx, ctx_init, class_specific=False, position="end")
        hidden = clip.embed_dim // 16
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(clip.embed_dim, hidden),
                relu=nn.ReLU(),
                linear2=nn.Linear(hidden, clip.text_width),
            )
        )

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        """Context (B, 1, P, w) for (B, d) unit image features.

        Raises:
            TypeError: no image features are given; without an image there are no prompts.
        """
        if image is None:
            raise TypeError("CoCoOp's text prompts depend on the image: give text_prompts() unit image features (B, d)")
        shift = self.meta_net(image.to(self.ctx.dtype))
        return TextPrompts(self.tokens, self.ctx + shift[:, None, None])


@prompt_learner("cocoop")
class CoCoOp(CoOp):
    """Conditional Context Optimization: context vectors and meta-net train, with cross-entropy."""

    config_node = "COCOOP"
    defaults: ClassVar[dict[str, Any]] = {"N_CTX": 4, "CTX_INIT": "", "PREC": "fp16"}

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        return ConditionalPrompts(clip, class_names, self.options.N_CTX, self.options.CTX_INIT)

    def model_inference(self, image: Tensor) -> Tensor:
        """(B, K) logits, of as many images at a time as :data:`EVALUATION_TEXTS` texts allow, but at least one."""
        parts = image.split(max(1, EVALUATION_TEXTS // self.num_classes))
        return torch.cat([super(CoCoOp, self).model_inference(part) for part in parts])
