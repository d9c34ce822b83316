"""The kinds of figures there are, and how one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cpt_plugin._names import nearest
from cpt_plugin.errors import ConfigError
from cpt_plugin.results.figures.style import Drawing, look

RECORDS, FEATURES = "records", "features"


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it shows, and what it is made from: ``records`` or ``features`` of trained prompts."""

    description: str
    material: str = RECORDS


KINDS: dict[str, Kind] = {
    "classes": Kind("accuracy of every class, most training images first"),
    "groups": Kind("accuracy of head, mid, tail and of many, medium, few"),
    "seeds": Kind("spread over seeds (CPT, figure 1d)"),
    "collapse": Kind("degrees of neural collapse against accuracy (NPT, figure 2; our reconstruction)"),
    "training": Kind("parts of the loss, and gradient norms where they were recorded, by epoch"),
    "sensitivity": Kind("accuracy by the value of one setting: loss weights, cluster size"),
    "similarity": Kind("cosine similarities of text features by cluster, effective rank (CPT, figure 1a-c)", FEATURES),
    "tsne": Kind("t-SNE of image and text features", FEATURES),
}
"""By name, which is that of the file with its function ``draw``."""


def parse_kinds(words: Sequence[str]) -> list[str]:
    """Check names of kinds, ``all`` for all of them; by default those that need records only.

    Raises:
        ConfigError: unknown; the message gives the nearest one.
    """
    if not words:
        return [name for name, kind in KINDS.items() if kind.material == RECORDS]
    for word in words:
        if word not in (*KINDS, "all"):
            raise ConfigError(
                f"unknown kind of figure '{word}'; nearest: '{nearest(word, KINDS)}'; possible: {', '.join(KINDS)}, all"
            )
    return [name for name in KINDS if name in words or "all" in words]


def draw(name: str, material: Sequence[Any]) -> list[Drawing]:
    """All figures of one kind; ``material`` holds groups of records, or panels of features.

    Raises:
        ConfigError: matplotlib (or, for ``tsne``, scikit-learn) is not installed.
    """
    with look():
        drawn: list[Drawing] = import_module(f"cpt_plugin.results.figures.{name}").draw(material)
    return drawn
