"""Samplers whose order depends on seed and epoch alone, and the base/new division of classes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.rng import derive_seed, generator

Order = Callable[[Sequence[Any], int, int], list[int]]
UNEVEN = ("RandomDomainSampler", "RandomClassSampler")
"""Samplers whose epochs differ in length."""


class SampleKey(int):
    """An index into a data source that also carries the epoch, for the augmentation of that epoch."""

    epoch: int

    def __new__(cls, index: int, epoch: int) -> SampleKey:
        key = super().__new__(cls, index)
        key.epoch = epoch
        return key

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.epoch


class EpochSampler(Sampler[SampleKey]):
    """Yields the order of one epoch, from a given position on.

    ``set_position`` chooses the epoch and how many items to skip; without it, epoch 0 from its start. The
    length is always that of a whole epoch, the one chosen.

    Args:
        data_source: the items.
        seed: of the order.
        order: indices of an epoch from these two and the epoch.
        even: whether all epochs have the same length.

    Raises:
        ConfigError: there is no such order of these items.
    """

    def __init__(self, data_source: Sequence[Any], seed: int, order: Order, even: bool = True) -> None:
        self._data_source, self._seed, self._order = data_source, seed, order
        self._epoch = self._skip = 0
        self._lengths: dict[int, int] = {}
        self.even = even
        self.length(0)

    def set_position(self, epoch: int, skip: int = 0) -> None:
        self._epoch, self._skip = epoch, skip

    def length(self, epoch: int) -> int:
        """Items of a whole epoch (from 0)."""
        key = 0 if self.even else epoch
        if key not in self._lengths:
            self._lengths[key] = len(self._order(self._data_source, self._seed, key))
        return self._lengths[key]

    def __len__(self) -> int:
        return self.length(self._epoch)

    def __iter__(self) -> Iterator[SampleKey]:
        for index in self._order(self._data_source, self._seed, self._epoch)[self._skip :]:
            yield SampleKey(index, self._epoch)


def build_sampler(
    sampler_type: str,
    data_source: Sequence[Any],
    seed: int = 0,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> EpochSampler:
    """Builds a sampler by Dassl's name, or one of this package's for long-tailed data.

    ``RandomSampler``, ``SequentialSampler``; ``RandomDomainSampler`` (``n_domain`` random domains in equal
    shares a batch), ``SeqDomainSampler`` (all domains in turn), ``RandomClassSampler`` (``n_ins`` items of
    each of ``batch_size // n_ins`` classes a batch, small classes drawn with replacement). Those that draw domains or
    classes stop when too few are left, so their epochs differ in length.

    Drawn with replacement, as many items an epoch as the source has (Kang et al., ICLR 2020, arXiv 1910.09217,
    section 3): a class c of n_c items with probability n_c^q / sum of n_k^q, then one of its items;
    ``ClassBalancedSampler`` (q = 0), ``SquareRootSampler`` (q = 1/2).

    Raises:
        ConfigError: unknown name, or a batch size that the data do not allow.
    """
    orders: dict[str, Order] = {
        "RandomSampler": _permutation,
        "SequentialSampler": lambda source, seed, epoch: list(range(len(source))),
        "RandomDomainSampler": lambda *args: _by_domain(*args, batch_size=batch_size, n_domain=n_domain),
        "SeqDomainSampler": lambda *args: _by_domain(*args, batch_size=batch_size, n_domain=None),
        "RandomClassSampler": lambda *args: _by_class(*args, batch_size=batch_size, n_ins=n_ins),
        "ClassBalancedSampler": lambda *args: _by_frequency(*args, power=0.0),
        "SquareRootSampler": lambda *args: _by_frequency(*args, power=0.5),
    }
    if sampler_type not in orders:
        raise ConfigError(f"unknown sampler {sampler_type!r}; choose one of {', '.join(orders)}")
    return EpochSampler(data_source, seed, orders[sampler_type], even=sampler_type not in UNEVEN)


def _permutation(source: Sequence[Any], seed: int, epoch: int) -> list[int]:
    return torch.randperm(len(source), generator=generator(seed, "order", epoch)).tolist()


def _private_random(seed: int, epoch: int) -> random.Random:
    return random.Random(derive_seed(seed, "order", epoch))


def _indices_by(source: Sequence[Any], attribute: str) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(source):
        groups.setdefault(getattr(item, attribute), []).append(index)
    return groups


def _by_domain(
    source: Sequence[Any], seed: int, epoch: int, *, batch_size: int, n_domain: int | None
) -> list[int]:
    rng, groups = _private_random(seed, epoch), _indices_by(source, "domain")
    domains = sorted(groups)
    count = n_domain if n_domain and n_domain > 0 else len(domains)
    if count > len(domains) or batch_size % count:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared equally by {count} of {len(domains)} domains; "
            "change DATALOADER.TRAIN_X.BATCH_SIZE or N_DOMAIN"
        )
    share = batch_size // count
    for indices in groups.values():
        rng.shuffle(indices)
    order: list[int] = []
    while all(len(groups[domain]) >= share for domain in domains):
        chosen = domains if n_domain is None else rng.sample(domains, count)
        for domain in chosen:
            order.extend(groups[domain][:share])
            del groups[domain][:share]
    return order


def _by_class(source: Sequence[Any], seed: int, epoch: int, *, batch_size: int, n_ins: int) -> list[int]:
    rng, groups = _private_random(seed, epoch), _indices_by(source, "label")
    classes = batch_size // n_ins
    if not 1 <= classes <= len(groups):
        raise ConfigError(
            f"RandomClassSampler needs N_INS <= BATCH_SIZE and BATCH_SIZE // N_INS <= {len(groups)} classes, "
            f"not BATCH_SIZE {batch_size} and N_INS {n_ins}"
        )
    chunks: dict[int, list[list[int]]] = {}
    for label, indices in groups.items():
        pool = indices if len(indices) >= n_ins else rng.choices(indices, k=n_ins)
        rng.shuffle(pool)
        chunks[label] = [pool[start : start + n_ins] for start in range(0, len(pool) - n_ins + 1, n_ins)]
    order: list[int] = []
    available = list(chunks)
    while len(available) >= classes:
        for label in rng.sample(available, classes):
            order.extend(chunks[label].pop(0))
            if not chunks[label]:
                available.remove(label)
    return order


def _by_frequency(source: Sequence[Any], seed: int, epoch: int, *, power: float) -> list[int]:
    rng, groups = _private_random(seed, epoch), _indices_by(source, "label")
    labels = sorted(groups)
    weights = [len(groups[label]) ** power for label in labels]
    return [rng.choice(groups[label]) for label in rng.choices(labels, weights, k=len(source))]


def subsample_classes(*sources: Sequence[Any], subsample: str = "all") -> list[list[Any]]:
    """Keeps all classes, the first half (``base``) or the rest (``new``), relabelled from 0.

    The classes are the sorted labels of all sources together; ``base`` is the first ceil(n / 2) of them.

    Returns:
        A list with one list of items for each source.

    Raises:
        ConfigError: ``subsample`` is none of the three.
    """
    if subsample not in ("all", "base", "new"):
        raise ConfigError(f"DATASET.SUBSAMPLE_CLASSES must be all, base or new, not {subsample!r}")
    if subsample == "all":
        return [list(source) for source in sources]
    labels = sorted({item.label for source in sources for item in source})
    half = (len(labels) + 1) // 2
    kept = labels[:half] if subsample == "base" else labels[half:]
    relabel = {label: position for position, label in enumerate(kept)}
    return [[_relabelled(item, relabel) for item in source if item.label in relabel] for source in sources]


def _relabelled(item: Any, relabel: dict[int, int]) -> Any:
    return type(item)(
        impath=item.impath, label=relabel[item.label], domain=item.domain, classname=item.classname
    )
