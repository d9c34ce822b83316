"""Degrees of neural collapse of the last epoch against accuracy, a mark for each run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from cpt_plugin.results.figures.group import Group
from cpt_plugin.results.figures.style import Drawing, finish, label, looks, new_figure, stem_of
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.text import listed

DEGREES = {"lcd_cos": "Δ LCD", "mid_cos": "Δ MID"}
"""Keys of a record's history and what they are called."""


def draw(groups: Sequence[Group]) -> list[Drawing]:
    """A figure for each group that has a run with recorded degrees."""
    return [_draw(group) for group in groups if any(_degrees(r) for runs in group.runs.values() for r in runs)]


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Spearman's coefficient, ties by their mean rank; None below three pairs or where one side is constant."""
    if len(xs) < 3:
        return None
    a, b = _ranks(xs), _ranks(ys)
    mean = fmean(a)
    da, db = [x - mean for x in a], [y - mean for y in b]
    scale = (sum(x * x for x in da) * sum(y * y for y in db)) ** 0.5
    return sum(x * y for x, y in zip(da, db, strict=True)) / scale if scale else None


def _draw(group: Group) -> Drawing:
    known = {name: [r for r in runs if _degrees(r)] for name, runs in group.plain.items()}
    known = {name: runs for name, runs in known.items() if runs}
    without = [name for name in group.plain if name not in known]
    metrics: list[str] = [name for name in ("base", "new") if name in group.table.accuracies] or [group.table.headline]
    style = looks(list(known))
    figure, panels = new_figure(len(metrics), 2, 1.5 + 2.1 * len(metrics), sharex="col", sharey="row")
    for line, metric in zip(panels, metrics, strict=True):
        for axes, (degree, words) in zip(line, DEGREES.items(), strict=True):
            pairs: list[tuple[float, float]] = []
            for name, runs in known.items():
                points = [(_degrees(record)[degree], record.metrics[metric]) for record in runs]
                axes.plot(*zip(*points, strict=True), alpha=0.8, label=label(name),
                          **style[name] | {"linestyle": ""})  # fmt: skip
                pairs += points
            rho = rank_correlation(*zip(*pairs, strict=True)) if pairs else None
            axes.set_title(f"rank correlation {'-' if rho is None else f'{rho:+.2f}'}, {len(pairs)} runs", loc="left")
            axes.set_ylabel(f"{metric} (%)" if axes is line[0] else "")
            if line is panels[-1]:
                axes.set_xlabel(f"{words} of the last epoch")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", title="method", title_fontsize=7)
    caption = (
        "Smaller degrees are closer to neural collapse (NPT, our reconstruction: cosine form, centered, on training "
        "batches). Classes trained on; new is the accuracy on the others."
    )
    lacking = [f"no degrees recorded: {listed(without)}"] if without else []
    title = f"Neural collapse and accuracy: {group.title}"
    return finish(figure, stem_of("collapse", *group.place), title, [caption, *lacking, *group.notes(list(known))])


def _degrees(record: RunRecord) -> dict[str, float]:
    last = record.history[-1] if record.history else {}
    return last if last.keys() >= DEGREES.keys() else {}


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]
