"""DPC: a second, parallel prompt trained on hard negatives (Li et al., CVPR 2025, arXiv 2503.13443).

A second stage over any prompt learner. Stage one trains its prompts P as usual. Stage two clones them,
P' = P, trains P' alone by the dynamic hard-negative optimizer, and evaluates the mixture w P' + (1 - w) P of the
token vectors: w = WEIGHT_BASE on base (or all) classes, w = WEIGHT_NEW on new ones, where 0 gives stage one bit
for bit. Regularizers act in the second stage only, a long-tail loss in the first only: the second keeps its own.

P' is itself what the optimizer trains here. The released code, as it runs, moves its P' by lr as lr / w_b does here,
5 times as far at w_b = 0.2 (docs/differences.md, tests/parity/test_dpc.py).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin.encoders import FrozenCLIP, ImagePrompts, TextPrompts
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from cpt_plugin.hook.checks import attached_models
from cpt_plugin.toolkit.embedded.base import find_model
from cpt_plugin.toolkit.embedded.rng import derive_seed
from cpt_plugin.toolkit.embedded.sampling import SampleKey
from trainers._base import LOG, PromptTrainer
from trainers._loading import load_prompts
from trainers._negatives import hard_negatives
from trainers._prompted import Prediction, PromptedCLIP, PromptLearner
from trainers._prompts import prompts_digest

NODE = "DPC"
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "TOP_K": 8,
        "WEIGHT_BASE": 0.2,
        "WEIGHT_NEW": 0.0,
        "BASE_EVAL": "mix",
        "STAGE_ONE": "",
        "STAGE_ONE_EPOCH": 0,
        "STAGE_ONE_HASH": "",
    }
)
"""Keys of ``TRAINER.DPC``.

STAGE_ONE: output folder of stage one, needed for training only; STAGE_ONE_EPOCH: 0 for its best model, else its last.
STAGE_ONE_HASH: the hash that the prompts of stage one must have; empty for any.
"""
T = TypeVar("T")


class DualPrompts(PromptLearner):
    """Frozen prompts P of stage one, and the parallel prompts P' that train.

    In training mode the prompts are P'. In evaluation every token vector is ``weight`` P' + (1 - ``weight``) P; at 0
    and 1 they are P and P' themselves.
    """

    stage_one: PromptLearner

    def __init__(self, stage_one: PromptLearner, parallel: PromptLearner, weight: float) -> None:
        super().__init__()
        self.class_specific, self.conditional = stage_one.class_specific, stage_one.conditional
        self.stage_one, self.parallel, self.weight = stage_one.requires_grad_(False), parallel, weight
        parallel.load_state_dict(stage_one.state_dict())

    def text_prompts(self, image: Tensor | None = None) -> TextPrompts:
        return self._prompts(lambda learner: learner.text_prompts(image))

    def image_prompts(self) -> ImagePrompts | None:
        return self._prompts(lambda learner: learner.image_prompts())

    def _prompts(self, of: Callable[[PromptLearner], T]) -> T:
        weight = 1.0 if self.training else self.weight
        if weight in (0.0, 1.0):
            return of(self.parallel if weight else self.stage_one)
        return mixture(of(self.parallel), of(self.stage_one), weight)


def mixture(a: Any, b: Any, weight: float) -> Any:
    """Prompts whose every tensor is ``weight`` a + (1 - ``weight``) b; None for none."""

    def mixed(x: Any, y: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(mixed, x, y))
        return weight * x + (1 - weight) * y if isinstance(x, Tensor) else x

    if a is None or b is None:
        return a
    changes = {field.name: mixed(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)}
    return dataclasses.replace(a, **changes)


def contrastive_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Symmetric cross-entropy over the B pairs of a batch, 0.5 [CE(Z, arange) + CE(Z^T, arange)]; a scalar.

    Z = logits[:, label] is (B, B): image i against the class of image j (section 3.3). A label that occurs
    m times is no false negative: its columns are the same texts, so the gradient is that of targets 1 / m on each
    of its pairs, and only the loss is bounded from below by log m there.

    Args:
        logits: (B, K) scaled cosines.
        label: (B,) classes.
    """
    pairs = logits[:, label].float()
    target = torch.arange(len(label), device=label.device)
    return 0.5 * (F.cross_entropy(pairs, target) + F.cross_entropy(pairs.t(), target))


class DPC(PromptTrainer):
    """Mixin that makes a prompt learner's trainer the second stage; see :func:`second_stage`."""

    first_stage: ClassVar[str]

    @classmethod
    def reads(cls, key: str) -> bool:
        """As in the base class, and the own node; prompts to start from are given by STAGE_ONE only."""
        return key.startswith(f"TRAINER.{NODE}.") or (key != "MODEL.INIT_WEIGHTS" and super().reads(key))

    def check_cfg(self, cfg: Any) -> None:
        """Refuse settings without meaning.

        Raises:
            ConfigError: as in the base class; a key of ``TRAINER.DPC`` outside its range, or MODEL.INIT_WEIGHTS.
        """
        super().check_cfg(cfg)
        node = cfg.TRAINER[NODE]
        ranges = {
            "TOP_K": ("at least 2", node.TOP_K >= 2),
            "WEIGHT_BASE": ("in [0, 1]", 0 <= node.WEIGHT_BASE <= 1),
            "WEIGHT_NEW": ("in [0, 1]", 0 <= node.WEIGHT_NEW <= 1),
            "BASE_EVAL": ("mix or parallel", node.BASE_EVAL in ("mix", "parallel")),
            "STAGE_ONE_EPOCH": ("at least 0", node.STAGE_ONE_EPOCH >= 0),
        }
        for key, (allowed, holds) in ranges.items():
            if not holds:
                raise ConfigError(f"TRAINER.{NODE}.{key} must be {allowed}, not {node[key]!r}")
        if cfg.MODEL.INIT_WEIGHTS:
            raise ConfigError(
                f"{type(self).__name__} starts from the prompts of stage one: give its output folder as "
                f"TRAINER.{NODE}.STAGE_ONE, and leave MODEL.INIT_WEIGHTS empty."
            )

    @property
    def dpc(self) -> Any:
        """The configuration node ``TRAINER.DPC``."""
        return self.cfg.TRAINER[NODE]

    def build_prompt_learner(self, clip: FrozenCLIP, class_names: list[str]) -> PromptLearner:
        """P from the folder of stage one (as initialized if none is given, until a model is loaded), and P' = P."""
        first = super().build_prompt_learner(clip, class_names)
        self.stage_one_split = None
        if self.dpc.STAGE_ONE:
            path = self._stage_one_file(Path(self.dpc.STAGE_ONE))
            self.stage_one_split = load_prompts(self, path, first).get("split_hash")
            self._check_hash(first, path)
            LOG.info(f"Prompts of stage one: {path}")
        weight = self._weight(self.cfg.DATASET.SUBSAMPLE_CLASSES == "new")
        return DualPrompts(first, super().build_prompt_learner(clip, class_names), weight)

    def _weight(self, new: bool) -> float:
        if new:
            return self.dpc.WEIGHT_NEW
        return self.dpc.WEIGHT_BASE if self.dpc.BASE_EVAL == "mix" else 1.0

    def _evaluates_new_classes(self) -> bool:
        """Whether no class here was trained, by the checkpoint; where some were, what SUBSAMPLE_CLASSES says."""
        said = self.cfg.DATASET.SUBSAMPLE_CLASSES == "new"
        here, trained = {*self.dm.dataset.classnames}, {*self.trained_class_names}
        if not trained or (here & trained and not here <= trained):
            return said
        new = not here & trained
        if new != said:
            LOG.info(
                f"DPC: {'none' if new else 'all'} of the classes here were trained, so the mixture is that of "
                f"{'new' if new else 'base'} classes, though DATASET.SUBSAMPLE_CLASSES is "
                f"{self.cfg.DATASET.SUBSAMPLE_CLASSES}"
            )
        return new

    def build_model(self) -> None:
        super().build_model()
        self.stage_one = PromptedCLIP(self.clip, self.dual_prompts.stage_one, self.cfg.MODEL.TEXT_MEMORY_GIB)

    @property
    def dual_prompts(self) -> DualPrompts:
        """The prompt learner: both prompts."""
        return cast("DualPrompts", self.model.prompt_learner)

    @property
    def stage_one_hash(self) -> str:
        """Hash of the prompts of stage one, as :attr:`prompts_hash` was at its end."""
        return prompts_digest(self.dual_prompts.stage_one)

    def checkpoint_extra(self) -> dict[str, Any]:
        return {**super().checkpoint_extra(), "stage_one": self.stage_one_hash}

    def before_train(self) -> None:
        """Sort the training images by class, and encode the texts of stage one once.

        Raises:
            ConfigError: no folder of stage one is given.
            DataError: fewer than two classes have training images.
        """
        if not self.dpc.STAGE_ONE:
            raise ConfigError(
                f"{type(self).__name__} is a second stage: train {self.first_stage} first, and give its output folder "
                f"as TRAINER.{NODE}.STAGE_ONE."
            )
        if self.stage_one_split not in (None, self.dm.split_hash):
            LOG.warning(f"{self.dpc.STAGE_ONE}: stage one was trained on other images or classes than stage two")
        self.images_of: dict[int, list[int]] = {}
        for index, item in enumerate(self.dm.dataset.train_x):
            self.images_of.setdefault(item.label, []).append(index)
        if len(self.images_of) < 2:
            raise DataError(f"{len(self.images_of)} class has training images: hard negatives need at least 2")
        if not self.dual_prompts.conditional:
            with torch.no_grad(), self.precision.context(self.device):
                self.stage_one.text_encoder(self.dual_prompts.stage_one.text_prompts())
        super().before_train()

    @property
    def _plain_loss(self) -> bool:
        """Whether the learner has no loss terms of its own, which may read all classes or the pixels."""
        return super().loss_parts.__func__ is PromptTrainer.loss_parts  # type: ignore[attr-defined]

    def needed_classes(self, label: Tensor) -> Tensor | None:
        """Those of the batch; all where the learner's own loss terms or a regularizer may read them."""
        return label.unique() if self._plain_loss and self.model not in attached_models else None

    def training_accuracy(self, logits: Tensor, label: Tensor) -> float:
        """Percentage of the batch's images whose label has the highest logit among the classes of the batch."""
        classes, position = label.unique(return_inverse=True)
        return super().training_accuracy(logits[:, classes], position)

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Each image followed by one training image of each of its hard negative classes, and their labels.

        Choices follow from (seed, epoch, batch). The negatives are drawn from the (few-shot, long-tailed) training
        images and go through the training transform. Where images are encoded without prompts, and nothing but the
        encoder reads them, it is their features (B, d) that are given, so that both stages share them.
        """
        image, label = super().parse_batch_train(batch)
        shared = self._plain_loss and self.dual_prompts.image_prompts() is None
        with torch.no_grad(), self.precision.context(self.device):
            image = self.model.image_encoder(image) if shared else image
            logits = self.stage_one(image)
        rng = random.Random(derive_seed(self.cfg.SEED, "negatives", self.epoch, self.batch_idx))
        labels = label.tolist()
        negatives = hard_negatives(logits, labels, self.dpc.TOP_K, self.images_of, rng)
        drawn = [self.training_image(rng.choice(self.images_of[c])) for own in negatives for c in own]
        if not drawn:
            return image, label
        order, used = [], len(labels)
        for position, own in enumerate(negatives):
            order += [position, *range(used, used + len(own))]
            used += len(own)
        others = torch.stack(drawn).to(self.device)
        with torch.no_grad(), self.precision.context(self.device):
            images = torch.cat([image, self.model.image_encoder(others) if shared else others])
        classes = torch.cat([label, label.new_tensor([c for own in negatives for c in own])])
        return images[order], classes[order]

    def training_image(self, index: int) -> Tensor:
        """(3, H, W) transformed training image; its augmentation is none that an epoch of the loader has."""
        return self.train_loader_x.dataset[SampleKey(index, self.max_epoch + self.global_step)]["img"]

    def loss_parts(self, prediction: Prediction, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """``dpc``, :func:`contrastive_loss`, in place of the learner's cross-entropy; its other terms stay."""
        own = super().loss_parts(prediction, image, label)
        del own[self.classification_part]
        return {"dpc": contrastive_loss(prediction.logits, label)} | own

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load both prompts, and mix them as classes that were trained, or were not, want it; see the base class.

        Raises:
            CheckpointError: as there, or TRAINER.DPC.STAGE_ONE_HASH is that of other prompts.
        """
        super().load_model(directory, epoch)
        if directory:
            self.dual_prompts.weight = self._weight(self._evaluates_new_classes())
        self._check_hash(self.dual_prompts.stage_one, Path(directory))

    def _check_hash(self, stage_one: PromptLearner, path: Path) -> None:
        found = prompts_digest(stage_one)
        if self.dpc.STAGE_ONE_HASH not in ("", found):
            raise CheckpointError(
                f"{path}: its prompts of stage one have the hash {found[:12]}, not {self.dpc.STAGE_ONE_HASH[:12]} as "
                f"TRAINER.{NODE}.STAGE_ONE_HASH says: they were trained again or changed. Train both stages anew, or "
                "give the folder of the right ones."
            )

    def _stage_one_file(self, folder: Path) -> Path:
        try:
            return find_model(folder / self.registered_name, self.dpc.STAGE_ONE_EPOCH or None)
        except CheckpointError as error:
            present = sorted(str(path.relative_to(folder)) for path in folder.glob("*/model*.pth.tar*"))
            wanted = f" of epoch {self.dpc.STAGE_ONE_EPOCH}" if self.dpc.STAGE_ONE_EPOCH else ""
            raise CheckpointError(
                f"TRAINER.{NODE}.STAGE_ONE: {folder} holds no prompts of {self.first_stage}{wanted} "
                f"({self.registered_name}/model...); there is {', '.join(present) or 'none'}. Give the output folder "
                f"of a finished training of {self.first_stage}."
            ) from error


def second_stage(base: type[PromptTrainer]) -> type[DPC]:
    """The trainer ``<base>DPC``: the second stage over a prompt learner's trainer."""
    body = {
        "first_stage": base.__name__,
        "__doc__": f"DPC's second stage over {base.__name__}.",
        "__module__": base.__module__,
    }
    return type(f"{base.__name__}DPC", (DPC, base), body)
