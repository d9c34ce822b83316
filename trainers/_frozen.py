"""Features of the frozen CLIP, without learned prompts, that a trainer's hook asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, class_means, class_text_features, dataset_template
from cpt_plugin.toolkit import build_data_loader, build_transform


class FrozenFeatures:
    """Mixin of trainers with a frozen CLIP, ``clip``, in a ``precision``."""

    cfg: Any
    dm: Any
    device: torch.device
    clip: FrozenCLIP
    precision: Any

    @torch.no_grad()
    def frozen_text_features(self, template: str | None = None) -> Tensor:
        """(K, d) un-normalised features of the class names in a template, without learned prompts.

        They are computed as the prompted ones are, in the same precision, and given in float32 or wider.

        Args:
            template: None or empty for the data set's own, ``ensemble`` for the mean of the unit features over
                CLIP's seven templates, or any sentence with ``{}``.

        Raises:
            ConfigError: the template does not hold ``{}`` once, or a text is too long.
        """
        wanted = template or dataset_template(self.cfg)
        with self.precision.context(self.device):
            return class_text_features(self.clip, self.dm.dataset.classnames, wanted)

    @torch.no_grad()
    def frozen_image_prototypes(self) -> Tensor:
        """(K, d) class means s_c of the unit features of the training images, not scaled to length 1 again.

        The images are seen as in evaluation (no random crop or flip), so the prototypes are the same in every run on
        these images; in float32 or wider. Nothing is drawn from the global generators.

        Raises:
            DataError: a class has no training image (named).
        """
        train, names = self.dm.dataset.train_x, self.dm.dataset.classnames
        encoder = ImageEncoder(self.clip)
        loader = build_data_loader(
            self.cfg, data_source=train, batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            tfm=build_transform(self.cfg, is_train=False), is_train=False,
        )  # fmt: skip

        def encoded() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in loader:
                with self.precision.context(self.device):
                    features = encoder(batch["img"].to(self.device))
                yield features, batch["label"]

        with torch.random.fork_rng(devices=[]):
            prototypes = class_means(encoded(), names)
        dtype = torch.float64 if self.clip.dtype == torch.float64 else torch.float32
        return prototypes.to(self.device, dtype)
