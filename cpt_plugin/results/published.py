"""Figures that others published, from `assets/published.json`: to stand beside ours, never to be mixed with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from statistics import fmean

from cpt_plugin._schema import decode
from cpt_plugin.protocols import BASE_TO_NEW, DATASETS_11
from cpt_plugin.results.stats import harmonic_mean

AVERAGE = "average"
MEAN_OF_H = "mean_of_H"
H_OF_MEANS = "H_of_means"


@dataclass(frozen=True)
class Published:
    """One published accuracy in percent.

    dataset: the one trained on, or ``average`` over the eleven; metric: as in a record, and for averages ``mean_of_H``
    and ``H_of_means``; source: a key of :func:`sources`; verified: see the file's ``about``; computed: not printed
    anywhere, but computed here from published base and new accuracies.
    """

    method: str
    protocol: str
    tau: float
    dataset: str
    metric: str
    value: float
    source: str
    verified: bool
    note: str = ""
    computed: bool = False


@dataclass(frozen=True)
class _File:
    about: tuple[str, ...]
    sources: dict[str, str]
    figures: tuple[Published, ...]


def figures() -> tuple[Published, ...]:
    """All published figures, in the order of preference where two sources give the same one."""
    return _file().figures


def published_names() -> list[str]:
    """Names of the methods that have figures."""
    return sorted({figure.method for figure in figures()})


def sources() -> dict[str, str]:
    """What the keys of sources stand for."""
    return _file().sources


def published(method: str, protocol: str, tau: float, dataset: str, metric: str) -> Published | None:
    """The figure, the first one where several sources have it; H is computed where only base and new are published."""
    found = _index().get((method, protocol, tau, dataset, metric))
    if found or protocol != BASE_TO_NEW:
        return found
    if metric == "H":
        parts = [published(method, protocol, tau, dataset, part) for part in ("base", "new")]
        return _computed(parts, metric, harmonic_mean)
    if metric == MEAN_OF_H and dataset == AVERAGE:
        parts = [published(method, protocol, tau, name, "H") for name in DATASETS_11]
        return _computed(parts, metric, lambda *values: fmean(values), AVERAGE)
    return None


def _computed(
    parts: list[Published | None], metric: str, formula: Callable[..., float], dataset: str = ""
) -> Published | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return replace(
        known[0],
        dataset=dataset or known[0].dataset,
        metric=metric,
        value=formula(*(part.value for part in known)),
        source=", ".join(dict.fromkeys(part.source for part in known)),
        verified=all(part.verified for part in known),
        note="; ".join(dict.fromkeys(part.note for part in known if part.note)),
        computed=True,
    )


@cache
def _file() -> _File:
    text = resources.files("cpt_plugin").joinpath("assets", "published.json").read_text(encoding="utf-8")
    file: _File = decode(_File, json.loads(text))
    return file


@cache
def _index() -> dict[tuple[str, str, float, str, str], Published]:
    found: dict[tuple[str, str, float, str, str], Published] = {}
    for figure in figures():
        found.setdefault((figure.method, figure.protocol, figure.tau, figure.dataset, figure.metric), figure)
    return found
