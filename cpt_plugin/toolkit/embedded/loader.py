"""Images as batches: reading, augmentation by position, data loaders, and the data manager."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cpt_plugin._loader_workers import collate, shared, worker_failures_named
from cpt_plugin.errors import DataError
from cpt_plugin.long_tail import LongTail, long_tail_subset, most_per_class
from cpt_plugin.toolkit.embedded.data import is_upright, read_upright, split_hash
from cpt_plugin.toolkit.embedded.image_cache import DecodedImages, ImageCache
from cpt_plugin.toolkit.embedded.image_files import image_size, read_image
from cpt_plugin.toolkit.embedded.logs import Progress
from cpt_plugin.toolkit.embedded.registry import build_dataset
from cpt_plugin.toolkit.embedded.rng import derive_seed, isolated_rng, kept_rng
from cpt_plugin.toolkit.embedded.sampling import build_sampler
from cpt_plugin.toolkit.embedded.transforms import build_plain_transform, build_transform

_LOGGER = logging.getLogger("cpt_plugin")


class DatasetWrapper(Dataset[dict[str, Any]]):
    """Items of a data source as dicts ``img, label, domain, impath, index`` (and ``img0``, ``img2``...).

    The transform runs under a generator seeded by (seed, epoch, index), restored afterwards; test items use
    the same draw in every epoch.
    """

    def __init__(
        self, cfg: Any, data_source: Sequence[Any], transform: Any = None, is_train: bool = False
    ) -> None:
        self.data_source = data_source
        self._transforms = transform if isinstance(transform, (list, tuple)) else [transform]
        self._seed, self._is_train = cfg.SEED, is_train
        self._views = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self._plain = build_plain_transform(cfg) if cfg.DATALOADER.RETURN_IMG0 else None
        self._decoded: DecodedImages | None = None
        node = cfg.IMAGE_CACHE
        self._cache = ImageCache(node.DIR, node.MAX_GIB) if node.ENABLED else None
        self._workers = cfg.DATALOADER.NUM_WORKERS

    def __len__(self) -> int:
        return len(self.data_source)

    def prepare(self) -> None:
        """If ``IMAGE_CACHE.ENABLED``, finds the decoded images or makes them; for the main process, before workers.

        Images that are read without it are decoded one by one: the same pixels.

        Raises:
            DataError: an image cannot be read.
        """
        cache, self._cache = self._cache, None
        if cache is None:
            return
        paths, upright = [item.impath for item in self.data_source], read_upright(self.data_source)
        self._decoded, found = cache.find(paths, upright), "read"
        if self._decoded is None:
            sizes = np.array([self._at(index, image_size) for index in range(len(self))], np.int32)
            self._decoded, found = cache.make(paths, sizes, self._pixels(), upright), "decoded"
        if self._decoded is not None:
            kind = "training" if self._is_train else "test"
            _LOGGER.info(f"Images {found}: {len(self)} {kind} images, {self._decoded.path}")

    def _pixels(self) -> Iterator[np.ndarray]:
        images: DataLoader[Any] = DataLoader(
            _Decoding(self), batch_size=None, num_workers=self._workers, generator=torch.Generator(), collate_fn=shared
        )
        progress = Progress(len(self), description="decode")
        for pixels in batches(images):
            progress.update()
            yield pixels.numpy()
        progress.close()

    def image(self, index: int) -> Image.Image:
        """An item's image in RGB, decoded now or before.

        Raises:
            DataError: it cannot be read.
        """
        return self._decoded[index] if self._decoded is not None else self._at(index, read_image)

    def _at(self, index: int, read: Callable[[str, bool], Any]) -> Any:
        item = self.data_source[index]
        try:
            return read(item.impath, is_upright(item))
        except DataError as error:
            kind = "training" if self._is_train else "test"
            raise DataError(f"{error} (item {index} of the {kind} data)") from error

    def __getitem__(self, key: int) -> dict[str, Any]:
        index, epoch = int(key), getattr(key, "epoch", 0) if self._is_train else 0
        item, image = self.data_source[index], self.image(index)
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": index}
        stream = "augment" if self._is_train else "test-image"
        with isolated_rng(derive_seed(self._seed, stream, epoch, index)):
            for position, transform in enumerate(self._transforms, start=1):
                views = [transform(image) for _ in range(self._views)]
                output["img" if position == 1 else f"img{position}"] = views if self._views > 1 else views[0]
        if self._plain is not None:
            output["img0"] = self._plain(image)
        return output

    def __getitems__(self, keys: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch; the generators' states are kept once for all of them, but not in a class of others."""
        with kept_rng() if type(self) is DatasetWrapper else nullcontext():
            return [self[key] for key in keys]


class _Decoding(Dataset[torch.Tensor]):
    """Pixels (height, width, 3) of the images of a data set."""

    def __init__(self, images: DatasetWrapper) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self._images.image(index)))


def build_data_loader(
    cfg: Any,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Any] = (),
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Any = None,
) -> DataLoader[Any]:
    """Builds a loader over a data source; incomplete training batches are dropped when there is a whole one.

    Raises:
        DataError: the loader would give no batch.
    """
    sampler = build_sampler(sampler_type, data_source, cfg.SEED, batch_size, n_domain, n_ins)
    loader: DataLoader[Any] = DataLoader(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
        drop_last=is_train and len(sampler) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
        persistent_workers=is_train and cfg.DATALOADER.NUM_WORKERS > 0,
        generator=torch.Generator().manual_seed(derive_seed(cfg.SEED, "workers")),
    )
    if len(loader) == 0:
        raise DataError(f"{len(data_source)} items give no batch of {batch_size} with {sampler_type}")
    return loader


def items_of(loader: Any) -> Sequence[Any]:
    """Items of the data source behind a loader; none without a loader."""
    return loader.dataset.data_source if loader is not None else ()


def epoch_batches(loader: Any, epoch: int) -> int:
    """Number of batches in an epoch (from 0) of a loader; with the engine's samplers epochs may differ."""
    sampler: Any = getattr(loader, "sampler", None)
    if not hasattr(sampler, "length"):
        return len(loader)
    items, size = sampler.length(epoch), loader.batch_size or 1
    return items // size if loader.drop_last else -(-items // size)


def batches(loader: DataLoader[Any], epoch: int = 0, start: int = 0) -> Iterator[Any]:
    """Yields the batches of one epoch from batch ``start`` on; the engine's samplers skip the others unread.

    Raises:
        DataError: an image cannot be read; from a loader worker with the same message as without workers.
        TrainingError: the workers lack memory.
    """
    sampler: Any = getattr(loader, "sampler", None)
    positioned = hasattr(sampler, "set_position")
    if positioned:
        sampler.set_position(epoch, skip=start * (loader.batch_size or 1))
    try:
        if isinstance(dataset := getattr(loader, "dataset", None), DatasetWrapper):
            dataset.prepare()
        with worker_failures_named(starting=getattr(loader, "num_workers", 0) > 0):
            yield from loader if positioned else islice(loader, start, None)
    except DataError as error:
        raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from error


def release_workers(loader: Any) -> None:
    """Ends a loader's persistent workers now; the garbage collector would wait 5 seconds for each of them."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


class DataManager:
    """The data set of a configuration, its long tail, and its loaders.

    Attributes:
        dataset: the data set; ``train_loader_x``, ``val_loader``, ``test_loader``: loaders, None for an empty
        part. long_tail: what :func:`cpt_plugin.long_tail.long_tail_subset` realised, None when balanced.
        class_counts: training images of each class, by label.
        split_hash: SHA-256 of all items after every selection.
    """

    def __init__(
        self, cfg: Any, custom_tfm_train: Any = None, custom_tfm_test: Any = None, dataset_wrapper: Any = None
    ) -> None:
        self.dataset = build_dataset(cfg)
        self.long_tail = _apply_long_tail(self.dataset, cfg)
        counts = Counter(item.label for item in self.dataset.train_x)
        self.class_counts = [counts[label] for label in range(self.num_classes)]
        self.split_hash = split_hash(self.dataset, cfg.DATASET.ROOT)
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        train_tfm = custom_tfm_train or build_transform(cfg, is_train=True)
        test_tfm = custom_tfm_test or build_transform(cfg, is_train=False)
        train, test = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TEST
        self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
        if self.dataset.train_x:
            self.train_loader_x = build_data_loader(
                cfg, train.SAMPLER, self.dataset.train_x, train.BATCH_SIZE, train.N_DOMAIN, train.N_INS,
                tfm=train_tfm, is_train=True, dataset_wrapper=dataset_wrapper,
            )  # fmt: skip
        for part in ("val", "test"):
            if items := getattr(self.dataset, part):
                loader = build_data_loader(
                    cfg,
                    test.SAMPLER,
                    items,
                    test.BATCH_SIZE,
                    tfm=test_tfm,
                    is_train=False,
                    dataset_wrapper=dataset_wrapper,
                )
                setattr(self, f"{part}_loader", loader)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    @property
    def lab2cname(self) -> dict[int, str]:
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: Any) -> None:
        """Logs the sizes of the data set and of its long tail."""
        rows = {"Dataset": cfg.DATASET.NAME, "# classes": f"{self.num_classes:,}"}
        for part in ("train_x", "val", "test"):
            if size := len(getattr(self.dataset, part)):
                rows[f"# {part}"] = f"{size:,}"
        for name, value in rows.items():
            _LOGGER.info(f"{name:<10} {value}")
        if self.long_tail is not None:
            _LOGGER.info(self.long_tail.describe())


def _apply_long_tail(dataset: Any, cfg: Any) -> LongTail | None:
    c = cfg.DATASET
    if c.IMBALANCE_TAU == 1 or not dataset.train_x:
        return None
    kept, info = long_tail_subset(
        dataset.train_x,
        c.IMBALANCE_TAU,
        c.CLASS_ORDER,
        most_per_class(c),
        cfg.SEED,
        num_classes=dataset.num_classes,
    )
    dataset.replace_train(kept)
    return info
