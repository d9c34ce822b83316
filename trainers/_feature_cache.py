"""Image features computed once, for learners that leave the image encoder alone (``FEATURE_CACHE.ENABLED True``)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cpt_plugin import __version__
from cpt_plugin._loader_workers import collate
from cpt_plugin.bounded_folder import cache_folder
from cpt_plugin.encoders import FrozenCLIP, ImageEncoder
from cpt_plugin.errors import ConfigError
from cpt_plugin.feature_store import FeatureStore, key_of
from cpt_plugin.results.provenance import versions
from cpt_plugin.toolkit import NAME
from cpt_plugin.toolkit.embedded.data import read_upright
from cpt_plugin.toolkit.embedded.image_cache import files_digest
from cpt_plugin.toolkit.embedded.loader import DataManager, DatasetWrapper, batches
from cpt_plugin.toolkit.embedded.sampling import SampleKey

LOG = logging.getLogger("cpt_plugin")


class CachedImages:
    """Mixin of trainers whose loaders may give features (d,) of the frozen image encoder in the place of images.

    Epoch e reads view e mod V of a training image, which is the augmentation that the image has in epoch v of the
    plain run, v = e mod V. So V = OPTIM.MAX_EPOCH is the plain run up to rounding, and so is V = 1 where training
    images are not augmented; otherwise V < MAX_EPOCH is another, cheaper run, which its record tells by
    ``FEATURE_CACHE.VIEWS``. Evaluation is always the plain one.
    """

    cfg: Any
    device: torch.device
    clip: FrozenCLIP
    precision: Any
    prompts_images: ClassVar[bool] = True
    """Whether the images' features depend on what is trained; such learners refuse the cache."""

    def check_cfg(self, cfg: Any) -> None:
        """Refuse the cache where it has no meaning.

        Raises:
            ConfigError: naming the key.
        """
        super().check_cfg(cfg)  # type: ignore[misc]
        for node in ("FEATURE_CACHE", "IMAGE_CACHE"):
            if cfg[node].ENABLED and NAME != "embedded":
                raise ConfigError(f"{node}.ENABLED needs the embedded engine: set CPT_TOOLKIT=embedded.")
        if cfg.FEATURE_CACHE.ENABLED and self.prompts_images:
            raise ConfigError(
                f"FEATURE_CACHE.ENABLED: {type(self).__name__} trains what its image encoder computes, so features of "
                "images cannot be computed beforehand. Use it with CoOp, CoCoOp, DPC over them, or ZeroshotCLIP."
            )

    def build_data_manager(self) -> Any:
        """Loaders of features if the cache is on; they need no workers."""
        if not self.cfg.FEATURE_CACHE.ENABLED:
            return super().build_data_manager()  # type: ignore[misc]
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        return DataManager(cfg, dataset_wrapper=self._features_of)

    def _features_of(self, cfg: Any, data_source: Sequence[Any], transform: Any, is_train: bool) -> FeatureDataset:
        return FeatureDataset(self, DatasetWrapper(self.cfg, data_source, transform, is_train), is_train)


class FeatureDataset(Dataset[dict[str, Any]]):
    """Items of a data source with their features under ``img``; a view is computed or read when first asked for."""

    def __init__(self, trainer: Any, images: DatasetWrapper, is_train: bool) -> None:
        self.data_source = images.data_source
        self._trainer, self._images, self._is_train = trainer, images, is_train
        self._number = trainer.cfg.FEATURE_CACHE.VIEWS if is_train else 1
        self._views: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, key: int) -> dict[str, Any]:
        index, view = int(key), getattr(key, "epoch", 0) % self._number
        item = self.data_source[index]
        return {
            "img": self.view(view)[index], "label": item.label, "domain": item.domain, "impath": item.impath,
            "index": index,
        }  # fmt: skip

    def view(self, number: int) -> Tensor:
        """Features (n, d) of all items under one augmentation."""
        if number not in self._views:
            node = self._trainer.cfg.FEATURE_CACHE
            store = FeatureStore(Path(node.DIR) if node.DIR else cache_folder("features"), node.MAX_GIB * 2**30)
            key = self._key(number)
            features = store.get(key, (len(self), self._trainer.clip.embed_dim))
            found = "read"
            if features is None:
                features, found = self._computed(number), "computed"
                store.put(key, features)
            which = f"training images, view {number + 1} of {self._number}" if self._is_train else "test images"
            LOG.info(f"Image features {found}: {len(self)} {which}")
            self._views[number] = torch.from_numpy(features)
        return self._views[number]

    def _key(self, view: int) -> str:
        trainer, cfg = self._trainer, self._trainer.cfg
        return key_of(
            {
                "images": files_digest((item.impath for item in self.data_source), read_upright(self.data_source)),
                "input": json.loads(json.dumps(cfg.INPUT)),
                "precision": [str(trainer.clip.dtype), str(trainer.precision.autocast), trainer.device.type],
                "seed": cfg.SEED if self._is_train else None,
                "train": self._is_train,
                "versions": [__version__, *versions(("torch", "torchvision", "pillow")).values()],
                "view": view,
                "weights": trainer.clip.digest,
            }
        )

    @torch.no_grad()
    def _computed(self, view: int) -> np.ndarray:
        """In batches as large as those of a test, in order, so that a test sees the very numbers of the plain run."""
        trainer = self._trainer
        encoder, loader = ImageEncoder(trainer.clip), trainer.cfg.DATALOADER
        images: DataLoader[Any] = DataLoader(
            self._images, batch_size=loader.TEST.BATCH_SIZE, num_workers=loader.NUM_WORKERS,
            sampler=[SampleKey(index, view) for index in range(len(self))], generator=torch.Generator(),
            collate_fn=collate,
        )  # fmt: skip
        parts = []
        for batch in batches(images):
            with trainer.precision.context(trainer.device):
                features = encoder(batch["img"].to(trainer.device))
            parts.append((features.float() if features.dtype == torch.bfloat16 else features).cpu())
        return torch.cat(parts).numpy()
