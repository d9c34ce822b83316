"""Which features stand side by side: the frozen model, then each method, of one data set, tau, protocol and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cpt_plugin.methods import ZEROSHOT
from cpt_plugin.results.features import Features
from cpt_plugin.results.figures.group import title_of

FROZEN = "frozen"
_ORDER = ("", "npt", "cpt")
_MOST = 4


@dataclass(frozen=True, eq=False)
class Comparison:
    """Features of several methods on the same classes, by the heading of their panel.

    ``frozen`` is the model without learned prompts; then plain, NPT-like and CPT, as far as there are runs.
    """

    learner: str
    panels: dict[str, Features]

    @property
    def any(self) -> Features:
        """Those that all panels share their classes with."""
        return next(iter(self.panels.values()))

    @property
    def clustered(self) -> Features:
        """Those whose clusters the training used (CPT's); the first ones where there are none."""
        return next((one for one in self.panels.values() if "_cpt" in one.method), self.any)

    @property
    def title(self) -> str:
        """What figures say above."""
        one = self.any
        place = title_of((one.dataset, one.tau, one.protocol))
        return f"{self.learner}, {place}, seed {one.seed}, {one.classes} classes"

    @property
    def stem(self) -> tuple[object, ...]:
        """Parts of a file's name."""
        one = self.any
        return self.learner, one.dataset, one.tau, one.protocol, f"seed{one.seed}", one.classes


def compare(features: Iterable[Features]) -> list[Comparison]:
    """Comparisons by prompt learner, independently of the order; the smallest seed that most methods have."""
    places: dict[tuple[object, ...], dict[int, list[Features]]] = {}
    frozen: dict[tuple[object, ...], Features] = {}
    for one in sorted(features, key=lambda f: (f.dataset, -f.tau, f.protocol, f.classes, f.seed, f.method)):
        place = (one.dataset, one.tau, one.protocol, one.classes)
        if one.method == ZEROSHOT:
            frozen.setdefault(place, one)
            continue
        places.setdefault((*place, one.prompt_learner), {}).setdefault(one.seed, []).append(one)
    found = []
    for (*shared, learner), by_seed in places.items():
        plain = frozen.get(tuple(shared))
        seed = max(by_seed, key=lambda s: (len(by_seed[s]), -s))
        members = sorted(by_seed[seed], key=lambda f: _rank(f.method, str(learner)))[: _MOST - 1]
        first = {FROZEN: plain} if plain else {}
        found.append(Comparison(str(learner), first | {one.method: one for one in members}))
    return found


def _rank(method: str, learner: str) -> tuple[int, str]:
    added = method.removeprefix(learner).removeprefix("_")
    return (_ORDER.index(added) if added in _ORDER else len(_ORDER)), method
