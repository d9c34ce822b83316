"""Features of the frozen CLIP, without learned prompts, that a trainer's hook asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin._names import some
from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, TextEncoder, fill_template, single_template, tokenize
from cpt_plugin.encoders.templates import ENSEMBLE
from cpt_plugin.errors import DataError
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
        encoder, names = TextEncoder(self.clip), self.dm.dataset.classnames
        wanted = template or single_template(self.cfg.DATASET.NAME)
        sentences = ENSEMBLE if wanted == "ensemble" else (wanted,)
        ids = [tokenize(fill_template(sentence, names), self.clip) for sentence in sentences]
        with self.precision.context(self.device):
            encoded = [encoder.encode_ids(i) for i in ids]
        features = [f.float() if f.element_size() < 4 else f for f in encoded]
        return torch.stack([F.normalize(f, dim=-1) for f in features]).mean(0) if len(features) > 1 else features[0]

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
        sums, counts = torch.zeros(len(names), self.clip.embed_dim, dtype=torch.float64), torch.zeros(len(names))
        with torch.random.fork_rng(devices=[]):
            for batch in loader:
                with self.precision.context(self.device):
                    features = encoder(batch["img"].to(self.device))
                sums.index_add_(0, batch["label"], F.normalize(features.double(), dim=-1).cpu())
                counts.index_add_(0, batch["label"], torch.ones(len(features)))
        if not counts.all():
            empty = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
            raise DataError(f"no prototype for classes without training images: {some(empty)}; give each at least one")
        dtype = torch.float64 if self.clip.dtype == torch.float64 else torch.float32
        return (sums / counts[:, None]).to(self.device, dtype)
