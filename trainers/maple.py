"""MaPLe: coupled deep prompts in both encoders (Khattak et al., CVPR 2023, arXiv 2210.03117)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cpt_plugin.encoders import FrozenCLIP, ImagePrompts, ModelSizes, TextPrompts, check_prompts
from trainers._base import PromptTrainer
from trainers._prompted import PromptLearner
from trainers._prompts import first_words, random_vectors, worded_context
from trainers._registry import prompt_learner


class MultiModalPrompts(PromptLearner):
    """Text prompts of depth J, and image prompts that are linear images of them.

    Layer 1 holds ``ctx`` (P, w), initialised with the first P words of ``ctx_init``; layers 2..J hold one
    (P, w) matrix each from N(0, 0.02^2). A Linear(w, vision width) a layer maps each to P image tokens; the
    deep ones start as copies of one initialisation.
    """

    def __init__(self, clip: FrozenCLIP, class_names: list[str], n_ctx: int, ctx_init: str, depth: int) -> None:
        super().__init__()
        clip.check_depth(text=depth, vision=depth)
        self.tokens, context = worded_context(clip, class_names, n_ctx, ctx_init)
        self.ctx = nn.Parameter(context)
        self.proj = nn.Linear(clip.text_width, clip.vision_width)
        self.compound_prompts_text = nn.ParameterList(
            nn.Parameter(random_vectors(n_ctx, clip.text_width)) for _ in range(depth - 1)
        )
        deep = nn.Linear(clip.text_width, clip.vision_width)
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(deep) for _ in range(depth - 1))

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        return TextPrompts(self.tokens, self.ctx, tuple(self.compound_prompts_text))

    def image_prompts(self) -> ImagePrompts:
        pairs = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        return ImagePrompts(self.proj(self.ctx), tuple(project(prompt) for project, prompt in pairs))


@prompt_learner("maple")
class MaPLe(PromptTrainer):
    """Multi-modal Prompt Learning: text prompts and their projections train, with cross-entropy."""

    config_node = "MAPLE"
    registered_name = "MultiModalPromptLearner"
    visual_depth = "PROMPT_DEPTH"
    defaults: ClassVar[dict[str, Any]] = {
        "N_CTX": 2,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH": 9,
    }

    @classmethod
    def check_model(cls, cfg: Any, sizes: ModelSizes) -> None:
        key = f"TRAINER.{cls.config_node}.{cls.visual_depth}"
        depth = cfg.TRAINER[cls.config_node][cls.visual_depth]
        sizes.check_depth(text=depth, vision=depth, keys=(key, key))

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        node = cfg.TRAINER[cls.config_node]
        check_prompts(class_names, *first_words(node.N_CTX, node.CTX_INIT))

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        node = self.options
        return MultiModalPrompts(clip, class_names, node.N_CTX, node.CTX_INIT, node.PROMPT_DEPTH)
