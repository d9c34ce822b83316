"""IVLP: independent deep prompts in both encoders (Khattak et al., CVPR 2023, the baseline of arXiv 2210.03117)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cpt_plugin.encoders import FrozenCLIP, ImagePrompts, ModelSizes, TextPrompts, check_prompts
from trainers._base import PromptTrainer
from trainers._prompted import PromptLearner
from trainers._prompts import first_words, random_vectors, worded_context
from trainers._registry import prompt_learner


class IndependentPrompts(PromptLearner):
    """Text prompts of one depth and visual prompts of another, none of which knows of the other encoder.

    Layer 1 of the text holds ``ctx`` (P_t, w_t), initialised with the first P_t words of ``ctx_init`` (else, as all
    others, from N(0, 0.02^2)), layer 1 of the image ``visual_ctx`` (P_v, w_v); ``deep_text`` and ``deep_visual`` hold
    a matrix for each further layer down to their depth. A visual depth of 0 means no visual prompts.

    Raises:
        ConfigError: a depth is not within the encoder's blocks, or the words do not fit.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        class_names: list[str],
        n_ctx_text: int,
        n_ctx_vision: int,
        ctx_init: str,
        depth_text: int,
        depth_vision: int,
    ) -> None:
        super().__init__()
        clip.check_depth(text=depth_text, vision=depth_vision)
        self.tokens, context = worded_context(clip, class_names, n_ctx_text, ctx_init)
        self.ctx = nn.Parameter(context)
        self.deep_text = _matrices(depth_text - 1, n_ctx_text, clip.text_width)
        self.visual_ctx = nn.Parameter(random_vectors(n_ctx_vision, clip.vision_width)) if depth_vision else None
        self.deep_visual = _matrices(depth_vision - 1, n_ctx_vision, clip.vision_width)

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        return TextPrompts(self.tokens, self.ctx, tuple(self.deep_text))

    def image_prompts(self) -> ImagePrompts | None:
        return None if self.visual_ctx is None else ImagePrompts(self.visual_ctx, tuple(self.deep_visual))


def _matrices(count: int, *shape: int) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(random_vectors(*shape)) for _ in range(count))


@prompt_learner("ivlp")
class IVLP(PromptTrainer):
    """Independent vision-language prompting: text and visual prompts train, with cross-entropy."""

    config_node = "IVLP"
    registered_name = "VLPromptLearner"
    visual_depth = "PROMPT_DEPTH_VISION"
    defaults: ClassVar[dict[str, Any]] = {
        "N_CTX_VISION": 2,
        "N_CTX_TEXT": 2,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH_VISION": 9,
        "PROMPT_DEPTH_TEXT": 9,
    }

    @classmethod
    def check_model(cls, cfg: Any, sizes: ModelSizes) -> None:
        node, place = cfg.TRAINER[cls.config_node], f"TRAINER.{cls.config_node}"
        keys = f"{place}.PROMPT_DEPTH_TEXT", f"{place}.{cls.visual_depth}"
        sizes.check_depth(text=node.PROMPT_DEPTH_TEXT, vision=node[cls.visual_depth], keys=keys)

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        node = cfg.TRAINER[cls.config_node]
        check_prompts(class_names, *first_words(node.N_CTX_TEXT, node.CTX_INIT))

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        node = self.options
        return IndependentPrompts(
            clip, class_names, node.N_CTX_TEXT, node.N_CTX_VISION, node.CTX_INIT,
            node.PROMPT_DEPTH_TEXT, node.PROMPT_DEPTH_VISION,
        )  # fmt: skip
