"""Protocols: on which classes a run trains, and on which data sets it is then evaluated; standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cpt_plugin import worlds
from cpt_plugin._names import nearest
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import is_embedded

BASE_TO_NEW = "base_to_new"
FEW_SHOT_ALL = "few_shot_all"
CROSS_DATASET = "cross_dataset"
DOMAIN_GENERALIZATION = "domain_generalization"
PROTOCOLS = (BASE_TO_NEW, CROSS_DATASET, DOMAIN_GENERALIZATION, FEW_SHOT_ALL)
TRANSFER = (CROSS_DATASET, DOMAIN_GENERALIZATION)
"""They share one training on all classes of the source."""
SOURCE = "source"
HEADLINES = {BASE_TO_NEW: "H", FEW_SHOT_ALL: "all", CROSS_DATASET: "mean", DOMAIN_GENERALIZATION: "mean"}
"""The one metric that sums a protocol up; ``mean`` is over the targets, without the source."""

DATASETS_11 = (
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
    "sun397", "dtd", "eurosat", "ucf101",
)  # fmt: skip
"""The eleven data sets of CoOp and its successors, in their order."""
IMAGENET_DOMAINS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


@dataclass(frozen=True)
class Task:
    """One evaluation of a run: ``classes`` (base, new or all) of a data set, under a name.

    seen: whether these are the classes of the training.
    """

    name: str
    dataset: str
    classes: str
    seen: bool

    @property
    def folder(self) -> str:
        """Name of the folder for what the evaluation writes; colons of a world's name become dashes."""
        return self.name.replace(":", "-")


def parse_protocol(text: str) -> str:
    """Check a protocol's name and return it.

    Raises:
        ConfigError: unknown; the message gives the nearest one.
    """
    if text not in PROTOCOLS:
        raise ConfigError(
            f"unknown protocol '{text}'; nearest: '{nearest(text, PROTOCOLS)}'; possible: {', '.join(PROTOCOLS)}"
        )
    return text


def tasks(protocol: str, dataset: str) -> tuple[Task, ...]:
    """The evaluations of a run trained on ``dataset``, the first on the classes it was trained on.

    Cross-dataset: from one of the eleven data sets to the ten others, from an embedded world to the other class sets
    in the clean domain. Domain generalization: from ImageNet to its four variants, from an embedded world to the
    same class set in every other domain.

    Raises:
        ConfigError: the protocol has no targets for this data set.
    """
    if protocol == BASE_TO_NEW:
        return Task("base", dataset, "base", True), Task("new", dataset, "new", False)
    if protocol == FEW_SHOT_ALL:
        return (Task("all", dataset, "all", True),)
    seen = protocol == DOMAIN_GENERALIZATION
    targets = _other_domains(dataset) if seen else _other_datasets(dataset)
    return Task(SOURCE, dataset, "all", True), *(Task(name, name, "all", seen) for name in targets)


def plain_dataset(name: str) -> str:
    """A record's data set without the ``(own split 1)`` of one that is not divided as published."""
    return name.partition(" (")[0]


def in_order(protocol: str, dataset: str, names: Iterable[str]) -> list[str]:
    """Names of a run's evaluations as :func:`tasks` has them, behind these, by name, those that it does not know."""
    try:
        known = [task.name for task in tasks(protocol, plain_dataset(dataset))]
    except ConfigError:
        known = [SOURCE]
    given = set(names)
    return [*(name for name in known if name in given), *sorted(given - {*known})]


def _other_datasets(dataset: str) -> list[str]:
    if is_embedded(dataset):
        source = worlds.parse_world(dataset)
        return [worlds.World(name, "clean").name for name in worlds.CLASS_SETS if name != source.class_set]
    if dataset not in DATASETS_11:
        raise ConfigError(f"{CROSS_DATASET} trains on shapes or one of {', '.join(DATASETS_11)}, not on '{dataset}'")
    return [name for name in DATASETS_11 if name != dataset]


def _other_domains(dataset: str) -> list[str]:
    if is_embedded(dataset):
        source = worlds.parse_world(dataset)
        return [worlds.World(source.class_set, name).name for name in worlds.DOMAINS if name != source.domain]
    if dataset != "imagenet":
        raise ConfigError(f"{DOMAIN_GENERALIZATION} trains on shapes or imagenet, not on '{dataset}'")
    return list(IMAGENET_DOMAINS)

