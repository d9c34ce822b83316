"""Accuracy of every class trained on, those with the most training images first: a panel of bars for each method."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from cpt_plugin.methods import ZEROSHOT
from cpt_plugin.metrics import class_accuracy
from cpt_plugin.results.figures.group import Group
from cpt_plugin.results.figures.style import BLACK, COLORS, Drawing, finish, label, new_figure, stem_of
from cpt_plugin.results.groups import THIRDS, third_of
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.text import span

_HATCHES = ("", "///", "...")
_MOST_NAMES = 40
_MOST_PANELS = 8


def draw(groups: Sequence[Group]) -> list[Drawing]:
    """A figure for each group, several where it has many methods."""
    drawings = []
    for group in groups:
        names = [name for name in group.plain if name != ZEROSHOT] or list(group.plain)
        parts = [names[start : start + _MOST_PANELS] for start in range(0, len(names), _MOST_PANELS)]
        drawings += [_draw(group, part, f"-{i}" if i else "") for i, part in enumerate(parts)]
    return drawings


def _draw(group: Group, names: Sequence[str], suffix: str) -> Drawing:
    reference = by_rank(group.plain[ZEROSHOT]) if ZEROSHOT in group.plain else []
    runs = group.plain[names[0]]
    labels = _labels(runs)
    images = [count for record in runs for count in record.class_counts]
    figure, panels = new_figure(len(names), 1, 1.3 + 0.95 * len(names) + 0.06 * max(map(len, labels)),
                                sharex=True, sharey=True)  # fmt: skip
    thirds = [THIRDS.index(third_of(rank, len(labels))) for rank in range(len(labels))]
    for [axes], name in zip(panels, names, strict=True):
        for rank, values in enumerate(by_rank(group.plain[name])):
            if values:
                mean, third = fmean(values), thirds[rank]
                axes.bar(rank, mean, width=0.8, color=COLORS[third], hatch=_HATCHES[third], edgecolor="white",
                         linewidth=0, alpha=0.85, yerr=[[mean - min(values)], [max(values) - mean]],
                         error_kw={"elinewidth": 0.8, "capsize": 1.5})  # fmt: skip
        marks = [(rank, fmean(values)) for rank, values in enumerate(reference) if values]
        if marks and name != ZEROSHOT:
            axes.plot(*zip(*marks, strict=True), linestyle="", marker="_", markersize=7, markeredgewidth=1.5,
                      color=BLACK, label="zero-shot")  # fmt: skip
        axes.set_title(label(name), loc="left", pad=2)
        axes.set_ylabel("%")
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", length=0)
    last = panels[-1][0]
    panels[0][0].set_ylim(0, 104)
    last.set_xlim(-0.7, len(labels) - 0.3)
    if len(labels) <= _MOST_NAMES:
        last.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6.5)
    else:
        last.set_xlabel("rank of the class, most training images first")
    caption = (
        f"Classes trained on, from {max(images)} training images (left) to {min(images)} (right); "
        "head, mid and tail in blue, orange and green (plain, striped, dotted); error bars: worst to best seed"
        + ("; black dashes: zero-shot." if reference else ".")
    )
    title = f"Accuracy by class: {group.title}"
    return finish(figure, stem_of("classes", *group.place) + suffix, title, [caption, *group.notes(names)])


def by_rank(runs: Sequence[RunRecord]) -> list[list[float]]:
    """Accuracies (%) of the class of each frequency rank over the runs; classes without test images have none."""
    found: list[list[float]] = [[] for _ in runs[0].trained.per_class]
    for record in runs:
        for result, rank in zip(record.trained.per_class, record.ranks, strict=True):
            value = class_accuracy(result.correct, result.total)
            if value is not None:
                found[rank].append(value)
    return found


def _labels(runs: Sequence[RunRecord]) -> list[str]:
    """Name and training images of the class of each rank; the images alone where the seeds rank differently."""
    counts = [span(sorted(one), "-") for one in zip(*(sorted(r.class_counts, reverse=True) for r in runs), strict=True)]
    orders = {tuple(record.ranks) for record in runs}
    if len(orders) > 1:
        return [f"n = {count}" for count in counts]
    names = dict(zip(next(iter(orders)), (result.name for result in runs[0].trained.per_class), strict=True))
    return [f"{label(names[rank].replace('_', ' '))} ({count})" for rank, count in enumerate(counts)]
