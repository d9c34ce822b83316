"""Data sets in the field's layout: image folders and a ``split_zhou_*.json`` beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import Manifest, registered_manifest
from cpt_plugin.data.split_file import is_published
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.toolkit import DatasetBase, Datum, read_split
from datasets import _own_split
from datasets._check import published_label
from datasets._few_shot import few_shot
from datasets._own_split import Named
from datasets._root import data_root

LOG = logging.getLogger("cpt_plugin")
Parts = tuple[list[Datum], list[Datum], list[Datum]]


class SplitDataset(DatasetBase):
    """Few-shot lists drawn from the published split, or (``DATASET.SPLIT own``) from a seeded split of our own.

    A subclass has the name that ``DATASET.NAME`` gives; its manifest says where its files lie. What it may say
    besides is needed for a split of our own only. Legacy ``split_fewshot/*.pkl`` are never read.

    Attributes:
        renamed: class name where it is not that of the image's folder.
        ignored: folders of images that belong to no class.
        split_label: "" for the published split, ``own split SEED`` for one of our own, ``other split`` for a file
            that has the published one's name but not its content (CoOp writes one of its own where it finds none);
            with ``incomplete`` where images or classes are fewer than published.

    Raises:
        DataError: the split file or an image is missing (path, and where to get it), a class has no images in train
            or test, or classes, names or part sizes differ from verified ones while ``DATASET.CHECK_COUNTS`` is on;
            unverified ones give a warning.
        ConfigError: ``DATASET.SPLIT own`` for a data set whose lists come with its images.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    ignored: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cfg: Any) -> None:
        self.manifest = manifest_for(type(self).__name__)
        root = data_root(cfg)
        self.folder, self.base = root / self.manifest.folder, root / self.manifest.base
        self.dataset_dir = str(self.folder)
        own = cfg.DATASET.SPLIT == "own"
        refuse_misplaced(self.manifest, root, own)
        self.split_label = f"own split {cfg.DATASET.SPLIT_SEED}" if own else ""
        parts = self.own_split(cfg.DATASET.SPLIT_SEED) if own else self.published_split()
        self.split_label = published_label(self.manifest, parts, cfg, self.split_label, by_part=not own)
        train, val, test = few_shot(*parts, cfg)
        super().__init__(train_x=train, val=val, test=test)

    def published_split(self) -> Parts:
        """Train, val and test as the field divides them."""
        path = self.folder / self.manifest.split
        if not path.is_file():
            raise DataError(
                f"the split file {path} is not there\n  get it from: {self.source_of(self.manifest.split)}\n  without "
                "it:  DATASET.SPLIT own makes a seeded split from the images; it is not the published one, and "
                "every log and table says so"
            )
        source = self.manifest.source_of(f"{self.manifest.folder}/{self.manifest.split}")
        if source and source.sha256 and not is_published(path, source.sha256):
            self.split_label = "other split"
            LOG.warning(
                f"{path} is not the published split (its content differs): made by other code in its place, or "
                f"changed; do not compare with published results. The published one: {source.url}"
            )
        return read_split(path, self.base)

    def own_split(self, seed: int) -> Parts:
        """A split of our own, made once and read again from ``split_own_seed<seed>_<NAME>.json``."""
        name = self.manifest.registered
        if not self.manifest.own_split:
            raise ConfigError(f"DATASET.SPLIT own: the lists of {name} come with its images, so leave it at published")
        LOG.warning(f"{name}: own split (seed {seed}), NOT the published one; do not compare with published results")
        return _own_split.read_or_make(self, self.folder / f"split_own_seed{seed}_{name}.json", seed)

    def class_of(self, path: PurePosixPath) -> str:
        """Class name of an image by its path below the image folder.

        Raises:
            DataError: the path does not tell it.
        """
        if not path.parent.name:
            raise DataError(f"{self.base / path} lies in no class folder: move it into one, or remove it")
        return self.renamed.get(path.parent.name, path.parent.name)

    def images(self) -> list[Named]:
        """All images with their class names."""
        return _own_split.images_below(self.base, self.class_of, self.ignored)

    def official_lists(self) -> tuple[list[Named], list[Named]] | None:
        """Images for training and validation, and those for testing, where the data set's authors divided them."""
        return None

    def needed(self, file: str) -> Path:
        """Path of a list that belongs to the data set.

        Raises:
            DataError: it is not there.
        """
        path = self.folder / file
        if not path.is_file():
            raise DataError(f"the list {path} is not there; get it from {self.source_of(file)}")
        return path

    def source_of(self, file: str) -> str:
        """Where a file of the data set comes from, in words."""
        source = self.manifest.source_of(f"{self.manifest.folder}/{file}")
        if source is None:
            return "CoOp's DATASETS.md"
        dead = f" (dead: {source.dead})" if source.dead else ""
        return "; or ".join([f"{source.url}{dead}", *filter(None, (source.fallback, source.instead))])


def manifest_for(registered: str) -> Manifest:
    """The manifest of a registered data set.

    Raises:
        DataError: there is none.
    """
    manifest = registered_manifest(registered)
    if manifest is None:
        raise DataError(f"cpt_plugin/assets/datasets/ has no manifest of {registered}; add one (docs/datasets.md)")
    return manifest
