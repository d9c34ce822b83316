"""CoOp: learned context words in the text input (Zhou et al., IJCV 2022, arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from cpt_plugin.encoders import ClassTokens, FrozenCLIP, TextPrompts, check_prompts
from cpt_plugin.errors import ConfigError
from trainers._base import PromptTrainer
from trainers._prompted import PromptLearner
from trainers._prompts import context_words, random_vectors, whole_words
from trainers._registry import prompt_learner


class ContextPrompts(PromptLearner):
    """P context vectors shared by all classes, (P, w), or one set a class, (K, P, w).

    Initialised with the embeddings of ``ctx_init``'s words (which then set P), else from N(0, 0.02^2).
    The class name stands at the end, in the middle, or in front of the context.
    """

    def __init__(
        self, clip: FrozenCLIP, class_names: list[str], n_ctx: int, ctx_init: str, class_specific: bool, position: str
    ) -> None:
        super().__init__()
        self.class_specific = class_specific
        n_ctx, words = whole_words(n_ctx, ctx_init)
        self.tokens = ClassTokens.build(clip, class_names, n_ctx, words, position)
        classes = (len(class_names),) if class_specific else ()
        if words:
            context = self.tokens.initial_context().expand(*classes, -1, -1).clone()
        else:
            context = random_vectors(*classes, n_ctx, clip.text_width)
        self.ctx = nn.Parameter(context)

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        return TextPrompts(self.tokens, self.ctx)


@prompt_learner("coop")
class CoOp(PromptTrainer):
    """Context Optimization: only the context vectors train, with cross-entropy."""

    config_node = "COOP"
    prompts_images = False
    neutral_options = PromptTrainer.neutral_options | {"CTX_INIT"}
    defaults: ClassVar[dict[str, Any]] = {
        "N_CTX": 16,
        "CSC": False,
        "CTX_INIT": "",
        "PREC": "fp16",
        "CLASS_TOKEN_POSITION": "end",
    }

    def check_cfg(self, cfg: Any) -> None:
        """Refuse a length that the initial words contradict.

        Raises:
            ConfigError: as in the base class, or N_CTX is not the number of CTX_INIT's words.
        """
        super().check_cfg(cfg)
        node = cfg.TRAINER[self.config_node]
        words = context_words(node.CTX_INIT)
        if words and len(words) != node.N_CTX:
            raise ConfigError(
                f"TRAINER.{self.config_node}.N_CTX is {node.N_CTX}, but CTX_INIT {node.CTX_INIT!r} has {len(words)} "
                f"words: set N_CTX {len(words)}, or leave CTX_INIT empty for {node.N_CTX} random vectors."
            )

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        node = cfg.TRAINER[cls.config_node]
        check_prompts(class_names, *whole_words(node.N_CTX, node.CTX_INIT), node.get("CLASS_TOKEN_POSITION", "end"))

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        node = self.options
        return ContextPrompts(clip, class_names, node.N_CTX, node.CTX_INIT, node.CSC, node.CLASS_TOKEN_POSITION)
