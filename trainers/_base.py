"""What every prompt learner shares: the prompted CLIP and the training step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.encoders import (
    FrozenCLIP,
    ImageEncoder,
    ImagePrompts,
    TextEncoder,
    TextPrompts,
    fill_template,
    load_clip,
    resolve_precision,
    single_template,
    tokenize,
)
from cpt_plugin.encoders.templates import ENSEMBLE
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.toolkit import TrainerX, build_lr_scheduler, build_optimizer, compute_accuracy, load_checkpoint

LOG = logging.getLogger("cpt_plugin")


class PromptLearner(nn.Module):
    """Learnable prompts of one method: all of its parameters, and nothing of CLIP's.

    ``forward()`` returns the text prompts of all K classes and the image prompts (None if the method has none).
    Only float32 parameters whose shapes do not depend on the class names belong into its state dict, unless
    the method is class-specific by definition; ``class_specific`` then says so.
    """

    class_specific = False

    def forward(self) -> tuple[TextPrompts, ImagePrompts | None]:
        raise TypeError(f"{type(self).__name__} does not define forward()")


class PromptedCLIP(nn.Module):
    """Frozen CLIP read through learnable prompts: logits = exp(logit_scale) * cos(image, text)."""

    def __init__(self, clip: FrozenCLIP, prompt_learner: PromptLearner) -> None:
        super().__init__()
        self.prompt_learner = prompt_learner
        self.text_encoder = TextEncoder(clip)
        self.image_encoder = ImageEncoder(clip)
        self.logit_scale = clip.logit_scale

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) images -> (B, K) logits over the classes of the prompt learner."""
        text_prompts, image_prompts = self.prompt_learner()
        text = F.normalize(self.text_encoder(text_prompts), dim=-1)
        features = F.normalize(self.image_encoder(image, image_prompts), dim=-1)
        return self.logit_scale * features @ text.to(features.dtype).t()


class CLIPTrainer(TrainerX):
    """A trainer over a frozen CLIP: loads it, and gives the frozen text features of the data set's classes."""

    config_node: ClassVar[str] = ""
    defaults: ClassVar[dict[str, Any]] = {}
    trainable: ClassVar[bool] = True

    @property
    def options(self) -> Any:
        """This trainer's own configuration node, e.g. ``cfg.TRAINER.COOP``."""
        return self.cfg.TRAINER[self.config_node]

    def load_frozen_clip(self, precision: str) -> FrozenCLIP:
        """Load ``MODEL.BACKBONE.NAME`` in the precision's weight type and check the input size against it."""
        cfg = self.cfg
        self.precision = resolve_precision(precision, self.device)
        if self.precision.note:
            LOG.info(self.precision.note)
        clip = load_clip(cfg.MODEL.BACKBONE.NAME, root=cfg.MODEL.BACKBONE.PATH or None, device=self.device,
                         precision=precision)
        if cfg.INPUT.SIZE[0] != clip.input_resolution:
            raise ConfigError(
                f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}, but {clip.name} reads {clip.input_resolution} px images: "
                f'set INPUT.SIZE "({clip.input_resolution}, {clip.input_resolution})".'
            )
        return clip

    @torch.no_grad()
    def frozen_text_features(self) -> Tensor:
        """(K, d) un-normalised features of the class names in the template, without learned prompts.

        The template is ``CPT.TEMPLATE``: empty for the data set's own, ``ensemble`` for the mean of the unit
        features over CLIP's seven templates, or any sentence with ``{}``.
        """
        encoder, names = TextEncoder(self.clip), self.dm.dataset.classnames
        wanted = self.cfg.CPT.TEMPLATE or single_template(self.cfg.DATASET.NAME)
        sentences = ENSEMBLE if wanted == "ensemble" else (wanted,)
        features = [
            encoder.encode_ids(tokenize(fill_template(sentence, names), self.clip))
            for sentence in sentences
        ]
        return torch.stack([F.normalize(f, dim=-1) for f in features]).mean(0) if len(features) > 1 else features[0]

    def checkpoint_extra(self) -> dict[str, Any]:
        return {"backbone": self.clip.name, "backbone_sha256": self.clip.digest}


class PromptTrainer(CLIPTrainer):
    """Base of all prompt learners: cross-entropy on cosine logits, only the prompts are trained."""

    registered_name: ClassVar[str] = "prompt_learner"
    loaded_extra: Mapping[str, Any] = MappingProxyType({})

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        """The method's prompts for these classes; drawn from torch's global generator, which is seeded."""
        raise TypeError(f"{type(self).__name__} does not define build_prompt_learner()")

    def build_model(self) -> None:
        self.clip = self.load_frozen_clip(self.options.PREC)
        prompts = self.build_prompt_learner(self.clip, self.dm.dataset.classnames)
        self.model = PromptedCLIP(self.clip, prompts).to(self.device)
        self.optim = build_optimizer(prompts, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(self.registered_name, prompts, self.optim, self.sched)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision.use_scaler else None

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        image, label = self.parse_batch_train(batch)
        with self.precision.context(self.device):
            output = self.model(image)
            loss = F.cross_entropy(output.float(), label)
        if self.scaler is None:
            self.model_backward_and_update(loss)
        else:
            self.optim.zero_grad()
            self.detect_anomaly(loss)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def model_inference(self, image: Tensor) -> Tensor:
        with self.precision.context(self.device):
            return self.model(image).float()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the prompts saved by training, possibly for other classes of the same data set.

        Args:
            directory: output folder of the training run.
            epoch: 1-based epoch; None loads ``model-best.pth.tar``.

        Raises:
            CheckpointError: missing, damaged, with prompts of another shape (named), or with class-specific
                contexts of other classes.
        """
        if not directory:
            LOG.info("No folder to load from (--model-dir): the prompts stay as they were initialized")
            return
        name = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        path = Path(directory) / self.registered_name / name
        if not path.is_file():
            present = sorted(p.name for p in path.parent.glob("model*.pth.tar*"))
            raise CheckpointError(f"No checkpoint {path}; there is {', '.join(present) or 'none in that folder'}.")
        content = load_checkpoint(str(path))
        self._check_classes(content.get("class_names"), path)
        self.load_prompts(content["state_dict"], path)
        self.loaded_extra = content.get("extra", {})

    def _check_classes(self, trained: list[str] | None, path: Path) -> None:
        """Refuse class-specific contexts of other classes; a checkpoint of Dassl does not name its classes."""
        own = self.dm.dataset.classnames
        if not self.model.prompt_learner.class_specific or trained in (None, own):
            return
        raise CheckpointError(
            f"{path} holds class-specific contexts of the classes {_some(trained)}; they cannot be used for "
            f"{_some(own)}. Evaluate the classes of the training run, or train shared contexts."
        )

    def load_prompts(self, state: dict[str, Tensor], path: Path) -> None:
        """Strictly copy a state dict into the prompt learner, naming what does not fit."""
        own = self.model.prompt_learner.state_dict()
        if missing := sorted(own.keys() ^ state.keys()):
            raise CheckpointError(f"{path} does not fit {type(self).__name__}: missing or unexpected {missing}.")
        for key, value in state.items():
            if value.shape != own[key].shape:
                raise CheckpointError(
                    f"{path}: {key} has shape {tuple(value.shape)}, this run needs {tuple(own[key].shape)}. "
                    "Prompt length, depth and backbone must be those of the training run."
                )
        self.model.prompt_learner.load_state_dict(state)


def _some(names: list[str]) -> str:
    """At most three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
