"""What every prompt learner's trainer shares: the frozen CLIP and the training step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.config_identity import hashed_part
from cpt_plugin.encoders import FrozenCLIP, ModelSizes, check_prompts, load_clip, resolve_precision
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.hook import HookHandle
from cpt_plugin.hook.balance import trained_parameters
from cpt_plugin.toolkit import NAME as TOOLKIT
from cpt_plugin.toolkit import TrainerX, build_lr_scheduler, build_optimizer, compute_accuracy
from cpt_plugin.toolkit.embedded.logs import FILE_ONLY
from cpt_plugin.toolkit.embedded.selection import BEST, chooses_epoch, require_validation
from cpt_plugin.trained import counts_by_name
from trainers._degrees import EpochFeatures
from trainers._feature_cache import CachedImages
from trainers._frozen import FrozenFeatures
from trainers._loading import load_prompts
from trainers._parts import available_parts, parts_of
from trainers._profiled import Profiled
from trainers._prompted import Prediction, PromptedCLIP, PromptLearner
from trainers._prompts import prompts_digest
from trainers._trained import Trained

LOG = logging.getLogger("cpt_plugin")


class CLIPTrainer(FrozenFeatures, CachedImages, TrainerX):
    """A trainer over a frozen CLIP: loads it, and gives the frozen text features of the data set's classes."""

    config_node: ClassVar[str] = ""
    defaults: ClassVar[dict[str, Any]] = {}
    trainable: ClassVar[bool] = True
    visual_depth: ClassVar[str | int] = 0
    """Depth of the visual prompts, or the key of the own node that holds it; 0 for none. A learner with any says so in
    its own class body: commands read it there, without importing, to refuse a ResNet before anything is installed."""
    trained: Trained = Trained()

    @property
    def trained_class_names(self) -> tuple[str, ...]:
        """Names of the classes that the prompts were trained on, by label: those here, or those of their checkpoint.

        Empty before training or loading, and where a checkpoint does not say.
        """
        return self.trained.class_names

    @property
    def trained_class_counts(self) -> tuple[int, ...] | None:
        """Training images of each of :attr:`trained_class_names`, after all sampling.

        None where a checkpoint does not say; empty before training or loading.
        """
        return self.trained.class_counts

    @property
    def selection(self) -> str:
        """In words, the epoch whose prompts are used and what it was chosen on; empty where nothing is trained."""
        return self.trained.selection

    @property
    def parts_without_gradient(self) -> tuple[str, ...]:
        """Names of the regularizers' parts whose gradient reached nothing that was trained."""
        return self.trained.parts_without_gradient

    def check_cfg(self, cfg: Any) -> None:
        """Refuse settings that would change nothing here.

        Raises:
            ConfigError: naming the key.
        """
        super().check_cfg(cfg)
        if cfg.DATALOADER.K_TRANSFORMS > 1 or cfg.DATALOADER.RETURN_IMG0:
            raise ConfigError(
                f"{type(self).__name__} reads one view of an image: set DATALOADER.K_TRANSFORMS 1 and "
                "DATALOADER.RETURN_IMG0 False."
            )
        if not cfg.MODEL.BACKBONE.PRETRAINED:
            raise ConfigError("Prompts need a pretrained CLIP: MODEL.BACKBONE.PRETRAINED must be True.")
        if cfg.MODEL.INIT_WEIGHTS and not self.trainable:
            raise ConfigError(f"{type(self).__name__} has no prompts to load MODEL.INIT_WEIGHTS into: leave it empty.")

    def before_train(self) -> None:
        """As in the base class.

        Raises:
            ConfigError: also on Dassl, the epoch is to be chosen on validation images, and there are none, where Dassl
                would take test images, or they are test images.
        """
        data = self.dm.dataset
        if TOOLKIT == "dassl" and chooses_epoch(self.cfg):
            require_validation(data.val or (), data.test, self.cfg.DATASET.NAME, f"TEST.FINAL_MODEL {BEST}")
        super().before_train()

    def build_data_loader(self) -> None:
        super().build_data_loader()
        self.check_class_names(self.cfg, self.dm.dataset.classnames, trained=False)
        for key in ("SOURCE_DOMAINS", "TARGET_DOMAINS"):
            if self.cfg.DATASET[key] and not self.dm.dataset.domains:
                LOG.warning(f"DATASET.{key} changes nothing: the data set {self.cfg.DATASET.NAME} has no domains")

    @property
    def options(self) -> Any:
        """This trainer's own configuration node, e.g. ``cfg.TRAINER.COOP``."""
        return self.cfg.TRAINER[self.config_node]

    def load_frozen_clip(self, precision: str) -> FrozenCLIP:
        """Load ``MODEL.BACKBONE.NAME`` in the precision's weight type and check the configuration against it.

        Raises:
            ConfigError: images of another size or normalization than the model's, or prompts that it cannot take.
        """
        cfg = self.cfg
        self.precision = resolve_precision(precision, self.device)
        if self.precision.note:
            LOG.info(self.precision.note)
        backbone = cfg.MODEL.BACKBONE
        clip = load_clip(
            backbone.NAME, root=backbone.PATH or None, precision=precision, device=self.device,
            download=backbone.DOWNLOAD, trust=backbone.TRUST, unknown_words=backbone.UNKNOWN_WORDS,
        )  # fmt: skip
        self.check_model(cfg, clip)
        if cfg.INPUT.SIZE[0] != clip.input_resolution:
            raise ConfigError(
                f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}, but {clip.name} reads {clip.input_resolution} px images: "
                f'set INPUT.SIZE "({clip.input_resolution}, {clip.input_resolution})".'
            )
        for key, wanted in (("PIXEL_MEAN", clip.pixel_mean), ("PIXEL_STD", clip.pixel_std)):
            if wanted is not None and any(abs(a - b) > 1e-4 for a, b in zip(cfg.INPUT[key], wanted, strict=True)):
                raise ConfigError(
                    f"INPUT.{key} is {list(cfg.INPUT[key])}, but {clip.name} was trained with {list(wanted)}: set "
                    f'INPUT.{key} "{list(wanted)}".'
                )
        return clip

    @classmethod
    def check_model(cls, cfg: Any, sizes: ModelSizes) -> None:
        """Refuse settings that a CLIP of these sizes cannot take; here nothing.

        Raises:
            ConfigError: naming the key.
        """

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        """Refuse class names that do not fit into the texts that this method makes of them; here none.

        It is asked for all evaluations of a run before anything is trained.

        Args:
            cfg: the configuration of the evaluation.
            class_names: its classes.
            trained: whether these are the classes trained on, of which some methods encode other texts besides.

        Raises:
            ConfigError: naming the classes.
        """

    @classmethod
    def reads(cls, key: str) -> bool:
        """Whether a result can depend on a configuration key: not on the nodes of other methods or regularizers."""
        top, _, rest = key.partition(".")
        nodes = {name: part.config_node for name, part in available_parts().items()}
        if top in nodes.values():
            return top in {nodes[name] for name in parts_of(cls)}
        return top != "TRAINER" or rest == "NAME" or rest.partition(".")[0] == cls.config_node

    def hashed_config(self) -> dict[str, Any]:
        return {key: value for key, value in hashed_part(self.cfg).items() if self.reads(key)}

    def resume_model_if_exist(self, directory: str) -> int:
        """On Dassl, which would go on from any checkpoint in the output folder: only when ``cfg.RESUME`` asks."""
        return super().resume_model_if_exist(directory) if self.cfg.RESUME else 0

    def checkpoint_extra(self) -> dict[str, Any]:
        return {"backbone": self.clip.name, "backbone_sha256": self.clip.digest}


class PromptTrainer(Profiled, CLIPTrainer):
    """Base of all prompt learners: cross-entropy on cosine logits, only the prompts are trained."""

    registered_name: ClassVar[str] = "prompt_learner"
    neutral_options: ClassVar[frozenset[str]] = frozenset({"PREC"})
    """Keys of the own node that do not change what trained prompts mean."""
    hook: HookHandle | None = None
    loaded_extra: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def check_class_names(cls, cfg: Any, class_names: Sequence[str], trained: bool) -> None:
        """As in the base class; here names that are empty, or too long for CLIP even alone."""
        check_prompts(class_names, 0)

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        """The method's prompts for these classes; drawn from torch's global generator, which is seeded."""
        raise TypeError(f"{type(self).__name__} does not define build_prompt_learner()")

    def build_model(self) -> None:
        self.clip = self.load_frozen_clip(self.options.PREC)
        prompts = self.build_prompt_learner(self.clip, self.dm.dataset.classnames)
        self.model = PromptedCLIP(self.clip, prompts, self.cfg.MODEL.TEXT_MEMORY_GIB).to(self.device)
        if not self.prompts_images and prompts.image_prompts() is not None:
            raise TypeError(f"{type(self).__name__} has visual prompts: leave its prompts_images at True")
        if self.cfg.MODEL.INIT_WEIGHTS:
            path = Path(self.cfg.MODEL.INIT_WEIGHTS)
            self.trained = Trained.of(load_prompts(self, path), path, self)
            LOG.info(f"Prompts start from {self.cfg.MODEL.INIT_WEIGHTS}")
        self.optim = build_optimizer(prompts, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(self.registered_name, prompts, self.optim, self.sched)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision.use_scaler else None
        self.skipped_steps = 0
        self.epoch_features = EpochFeatures(self.num_classes)
        self.gradient_norms: dict[str, float] = {}

    @property
    def prompts_hash(self) -> str:
        """SHA-256 (hex) over names, types, shapes and bytes of the prompts as they are now."""
        return prompts_digest(self.model.prompt_learner)

    def images_trained_on(self) -> list[int | None]:
        """Images that each class here was trained on, by label, by the checkpoint of loaded prompts; None for others.

        Nothing is known of any class where the checkpoint does not say. Of prompts that are neither trained nor loaded
        it is what the configuration has.
        """
        trained, here = self.trained, self.dm.dataset.classnames
        if trained == Trained():
            return super().images_trained_on()
        if trained.class_counts is None:
            return [None] * len(here)
        return counts_by_name(here, trained.class_names, trained.class_counts)

    def before_train(self) -> None:
        self.trained = Trained.here(self)
        super().before_train()

    def before_epoch(self) -> None:
        super().before_epoch()
        if self.epoch_features.epoch != self.epoch:
            self.epoch_features = EpochFeatures(self.num_classes, self.epoch)

    def after_epoch(self) -> None:
        """Log the degrees of neural collapse of the epoch."""
        degrees = self.epoch_features.degrees()
        shown = " ".join(f"{name} {value:.4f}" for name, value in degrees.items())
        LOG.info(f"degrees of neural collapse, epoch {self.epoch + 1}/{self.max_epoch}: {shown}", extra=FILE_ONLY)
        for name, value in degrees.items():
            self.write_scalar(f"train/{name}", value, self.global_step)
        for name, value in self.gradient_norms.items():
            self.write_scalar(f"train/grad_{name}", value, self.global_step - self.batch_idx)
        super().after_epoch()

    def epoch_values(self) -> dict[str, float]:
        """As in the base class, the degrees of neural collapse, and ``grad_main``, ... with TRAIN.GRADIENT_NORMS."""
        norms = {f"grad_{name}": value for name, value in self.gradient_norms.items()}
        return {**super().epoch_values(), **self.epoch_features.degrees(), **norms}

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        with self.profile.section("data"):
            image, label = self.parse_batch_train(batch)
        with self.precision.context(self.device):
            classes = self.needed_classes(label)
            prediction = self.model(image, label, with_features=True, classes=classes)
            text = prediction.text if classes is None else self._text_of_all_classes(prediction.image)
            self.epoch_features.add(prediction.image, text, label)
            parts = self.loss_parts(prediction, image, label)
            loss = torch.stack(list(parts.values())).sum()
        if self.batch_idx == 0:
            self.gradient_norms = {}
            if self.cfg.TRAIN.GRADIENT_NORMS:
                self._measure_gradients(loss)
        if self.scaler is None:
            self.model_backward_and_update(loss)
        else:
            self._scaled_step(self.scaler, loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        summary = {"loss": loss.item(), "acc": self.training_accuracy(prediction.logits, label)}
        if parts.keys() != {"ce"}:
            summary |= {f"loss_{name}": value.item() for name, value in parts.items()}
        return summary

    def _measure_gradients(self, loss: Tensor) -> None:
        """Norms on the trained prompts at this step, of this loss (``main``) and of each regularizer's weighted part.

        Nothing of the step changes; it costs a backward pass for each of them.
        """
        scale = torch.ones((), device=self.device) * (self.scaler.get_scale() if self.scaler is not None else 1.0)
        with self.profile.section("backward"):
            HookHandle.of(self).measure_gradients(loss, trained_parameters(self), scale, self.gradient_norms)

    def needed_classes(self, label: Tensor) -> Tensor | None:
        """Sorted classes whose text features a training step with these labels needs; None, as here, for all."""
        return None

    def _text_of_all_classes(self, image: Tensor) -> Tensor | None:
        """For steps that encode some classes: what the epoch's degrees of collapse need, at its last step only."""
        if self.batch_idx + 1 < self.num_batches:
            return None
        with torch.no_grad():
            return self.model.text_features(image)

    def training_accuracy(self, logits: Tensor, label: Tensor) -> float:
        """Percentage of the batch's images whose highest logit is that of their label."""
        return compute_accuracy(logits, label)[0].item()

    def loss_parts(self, prediction: Prediction, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Named float32 terms (weighted) of this method's own loss, which is their sum; all are logged.

        Here the classification loss alone, under the name :attr:`classification_part`.
        """
        return {self.classification_part: self.classification_loss(prediction.logits.float(), label)}

    @property
    def classification_part(self) -> str:
        """Name of the classification loss among the parts: ``ce``, or that of a long-tail loss in its place."""
        return "ce"

    def classification_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of (B, K) float32 logits, or a long-tail loss in its place; a scalar."""
        return F.cross_entropy(logits, label)

    def _scaled_step(self, scaler: torch.amp.GradScaler, loss: Tensor) -> None:
        """Step under a loss scale; gradients that overflow skip the step, which is counted, and lower the scale."""
        with self.profile.section("update"):
            self.optim.zero_grad()
            self.detect_anomaly(loss)
            with self.profile.section("backward"):
                scaler.scale(loss).backward()
            scaler.step(self.optim)
            before = scaler.get_scale()
            scaler.update()
            self.skipped_steps += scaler.get_scale() < before

    def after_train(self) -> None:
        if self.skipped_steps:
            LOG.warning(
                f"{self.skipped_steps} of {self.num_steps} steps were skipped: a gradient was not finite under "
                "the loss scale (PREC amp)"
            )
        super().after_train()

    def checkpoint_header(self) -> dict[str, Any]:
        known = self.trained.header() if self.trained != Trained() else {}
        return {**super().checkpoint_header(), **known, "parts_without_gradient": list(self.parts_without_gradient)}

    def load_header(self, saved: Mapping[str, Any]) -> None:
        super().load_header(saved)
        parts = saved.get("parts_without_gradient", ())  # states of earlier versions have none
        self.trained = replace(self.trained, parts_without_gradient=tuple(parts))

    def resume_extra(self) -> dict[str, Any]:
        own = {"skipped_steps": self.skipped_steps, "epoch_features": self.epoch_features.state_dict()}
        return {**super().resume_extra(), **own, "gradient_norms": self.gradient_norms}

    def load_resume_extra(self, saved: dict[str, Any]) -> None:
        super().load_resume_extra(saved)
        self.skipped_steps = saved["skipped_steps"]
        self.epoch_features.load_state_dict(saved["epoch_features"], self.device)
        self.gradient_norms = dict(saved.get("gradient_norms", {}))  # states of earlier versions have none

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
            CheckpointError: missing, damaged, with prompts of another shape or meaning (named), trained on other
                CLIP weights, or with class-specific contexts of other classes.
        """
        if not directory:
            LOG.info("No folder to load from (--model-dir): the prompts stay as they were initialized")
            return
        name = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        path = Path(directory) / self.registered_name / name
        if not path.is_file():
            present = sorted(p.name for p in path.parent.glob("model*.pth.tar*"))
            raise CheckpointError(f"No checkpoint {path}; there is {', '.join(present) or 'none in that folder'}.")
        content = load_prompts(self, path)
        self.loaded_extra, self.trained = content.get("extra", {}), Trained.of(content, path, self)
