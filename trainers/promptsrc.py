"""PromptSRC: IVLP's prompts held near the frozen CLIP (Khattak et al., ICCV 2023, arXiv 2307.06948)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.encoders import ImageEncoder, check_class_texts, dataset_template
from cpt_plugin.encoders.templates import ENSEMBLE, imagenet_templates
from cpt_plugin.errors import CheckpointError, ConfigError
from trainers._prompted import Prediction
from trainers._registry import prompt_learner
from trainers.ivlp import IVLP

TEMPLATES = {"published": imagenet_templates(60), "ensemble": ENSEMBLE, "single": ("",)}
"""Sentences behind the frozen text features: those of the released code, CLIP's seven, or the data set's own one."""


def epoch_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Weights (T,) of epochs t = 1..T in the averaged prompts: exp(-(t - mean)^2 / (2 std^2)), scaled to sum 1."""
    times = torch.arange(1, epochs + 1, dtype=torch.float64)
    return torch.softmax(-0.5 * ((times - mean) / std) ** 2, dim=0)


@dataclasses.dataclass
class PromptAverage:
    """Weighted sum of trained prompts over the first ``epochs`` epochs (Gaussian prompt aggregation, section 3.2)."""

    epochs: int = 0
    sums: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def add(self, learner: nn.Module, weight: float) -> None:
        """Add the parameters that train, as they are at the end of an epoch."""
        for name, value in _trained(learner):
            self.sums[name] = weight * value.detach() + self.sums.get(name, 0.0)
        self.epochs += 1

    @torch.no_grad()
    def copy_to(self, learner: nn.Module) -> None:
        """Put the sums in the place of the parameters that train."""
        for name, value in _trained(learner):
            value.copy_(self.sums[name])


def _trained(learner: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, value) for name, value in learner.named_parameters() if value.requires_grad)


@prompt_learner("promptsrc")
class PromptSRC(IVLP):
    """Prompting with self-regulating constraints: frozen CLIP anchors features and logits, prompts are averaged.

    After the last epoch the prompts are the average of all epochs' prompts, weighted by :func:`epoch_weights`;
    so the model saved then, and it alone, holds averaged prompts. Models of earlier epochs hold those epochs' own.
    """

    config_node = "PROMPTSRC"
    visual_depth = "PROMPT_DEPTH_VISION"
    neutral_options = IVLP.neutral_options | {
        "TEXT_LOSS_WEIGHT", "IMAGE_LOSS_WEIGHT", "GPA_MEAN", "GPA_STD", "TEMPLATES"
    }  # fmt: skip
    defaults: ClassVar[dict[str, Any]] = {
        "N_CTX_VISION": 4,
        "N_CTX_TEXT": 4,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH_VISION": 9,
        "PROMPT_DEPTH_TEXT": 9,
        "TEXT_LOSS_WEIGHT": 25.0,
        "IMAGE_LOSS_WEIGHT": 10.0,
        "GPA_MEAN": 15.0,
        "GPA_STD": 1.0,
        "TEMPLATES": "published",
    }

    def check_cfg(self, cfg: Any) -> None:
        """Refuse a spread or templates without meaning.

        Raises:
            ConfigError: as in the base class, GPA_STD is not positive, or TEMPLATES is unknown.
        """
        super().check_cfg(cfg)
        node = cfg.TRAINER[self.config_node]
        if node.GPA_STD <= 0:
            raise ConfigError(f"TRAINER.PROMPTSRC.GPA_STD must be positive (epochs), not {node.GPA_STD}.")
        if node.TEMPLATES not in TEMPLATES:
            known = ", ".join(TEMPLATES)
            raise ConfigError(f"TRAINER.PROMPTSRC.TEMPLATES must be one of {known}, not {node.TEMPLATES!r}.")

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        super().check_class_names(cfg, class_names, trained)
        for sentence in TEMPLATES[cfg.TRAINER[cls.config_node].TEMPLATES] if trained else ():
            check_class_texts(class_names, sentence or dataset_template(cfg))

    def build_model(self) -> None:
        super().build_model()
        self.average = PromptAverage()
        self.frozen_image_encoder = ImageEncoder(self.clip)

    @cached_property
    def frozen_text(self) -> Tensor:
        """(K, d) float32 unit text features of the frozen CLIP: of the mean of raw ones over ``TEMPLATES``."""
        features = [self.frozen_text_features(sentence) for sentence in TEMPLATES[self.options.TEMPLATES]]
        return F.normalize(torch.stack(features).mean(0), dim=-1).float()

    def loss_parts(self, prediction: Prediction, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and the three terms that hold prompted features g, f and logits near the frozen ones (eq. 3-6).

        ``scl_text`` = TEXT_LOSS_WEIGHT mean|g - g0|, ``scl_image`` = IMAGE_LOSS_WEIGHT mean|f - f0|, ``scl_logits`` =
        KL(softmax(z0) || softmax(z)) summed over the batch and divided by the number B K of logits, as released. g0
        is :attr:`frozen_text`, f0 the image features without prompts, z0 = exp(logit_scale) f0 g0^T; no gradient
        reaches them.
        """
        with self.profile.section("regularizer"):
            terms = self._scl_terms(prediction, image)
        return super().loss_parts(prediction, image, label) | terms

    def _scl_terms(self, prediction: Prediction, image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            frozen_image = F.normalize(self.frozen_image_encoder(image), dim=-1).float()
            frozen_logits = self.clip.logit_scale * frozen_image @ self.frozen_text.t()
        kl = F.kl_div(
            prediction.logits.float().log_softmax(dim=1),
            frozen_logits.log_softmax(dim=1),
            reduction="sum",
            log_target=True,
        )
        text_weight, image_weight = self.options.TEXT_LOSS_WEIGHT, self.options.IMAGE_LOSS_WEIGHT
        return {
            "scl_text": text_weight * F.l1_loss(prediction.text.float(), self.frozen_text),
            "scl_image": image_weight * F.l1_loss(prediction.image.float(), frozen_image),
            "scl_logits": kl / frozen_logits.numel(),
        }

    def before_epoch(self) -> None:
        """Raises :class:`CheckpointError` if the average does not hold all epochs before this one."""
        if self.average.epochs != self.epoch:
            raise CheckpointError(
                f"Epoch {self.epoch + 1} begins, but the averaged prompts hold {self.average.epochs} epochs: this "
                "toolkit resumed without them, and the final prompts would be wrong. Train again from the start, or "
                "resume with CPT_TOOLKIT=embedded."
            )
        super().before_epoch()

    def after_epoch(self) -> None:
        self.average_prompts()
        super().after_epoch()

    def average_prompts(self) -> None:
        """Add the prompts of the epoch that has ended to the average; after the last epoch it replaces them."""
        learner, options = self.model.prompt_learner, self.options
        weights = epoch_weights(self.max_epoch, options.GPA_MEAN, options.GPA_STD)
        self.average.add(learner, weights[self.epoch].item())
        if self.epoch + 1 == self.max_epoch:
            self.average.copy_to(learner)

    def resume_extra(self) -> dict[str, Any]:
        return {**super().resume_extra(), "average": {"epochs": self.average.epochs, "sums": self.average.sums}}

    def load_resume_extra(self, saved: dict[str, Any]) -> None:
        super().load_resume_extra(saved)
        sums = {name: value.to(self.device) for name, value in saved["average"]["sums"].items()}
        self.average = PromptAverage(saved["average"]["epochs"], sums)
