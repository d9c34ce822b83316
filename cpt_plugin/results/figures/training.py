"""Parts of the loss by epoch, and gradient norms where the records hold them: a panel for each method."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from cpt_plugin.results.figures.group import Group
from cpt_plugin.results.figures.style import Drawing, finish, label, looks, new_figure, panels_beside, stem_of
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.text import listed

LOSS, GRADIENT = "loss", "grad"
SUM = "loss_reg"
"""Drawn below the parts, with larger marks: where one part is nearly all of it, both show."""
_WIDE = 20.0


class _Words(NamedTuple):
    title: str
    axis: str
    caption: str


_WORDS = {
    LOSS: _Words(
        "Loss parts",
        "mean loss",
        "Means over an epoch and over seeds; parts are weighted; loss is the learner's own, loss_reg is added.",
    ),
    GRADIENT: _Words(
        "Gradient norms",
        "gradient norm",
        "On the trained prompts, at the first step of an epoch; means over seeds; parts are weighted; grad_main is of "
        "the learner's own loss.",
    ),
}


def draw(groups: Sequence[Group]) -> list[Drawing]:
    """A figure of losses for each group with a recorded history, and one of gradient norms where there are some."""
    return [
        drawing for group in groups for prefix in (LOSS, GRADIENT) if (drawing := _draw(group, prefix)) is not None
    ]


def curves(runs: Sequence[RunRecord], prefix: str) -> dict[str, list[tuple[int, float]]]:
    """By name of the logged value: (epoch from 1, mean over the runs that have it)."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in runs:
        for epoch, values in enumerate(record.history, 1):
            for name, value in values.items():
                if name == prefix or name.startswith(f"{prefix}_"):
                    found.setdefault(name, {}).setdefault(epoch, []).append(value)
    return {name: [(epoch, fmean(values)) for epoch, values in by.items()] for name, by in sorted(found.items())}


def _scale(panels: Sequence[Sequence[float]]) -> str:
    """One for all panels: logarithmic where that is possible and one of them spans much."""
    wide = any(max(values) > _WIDE * min(values) for values in panels)
    return "log" if wide and min(map(min, panels)) > 0 else "linear"


def _draw(group: Group, prefix: str) -> Drawing | None:
    lines = {name: found for name, runs in group.plain.items() if (found := curves(runs, prefix))}
    if not lines:
        return None
    style = looks(list(dict.fromkeys(part for found in lines.values() for part in found)))
    columns = panels_beside(len(lines))
    rows = -(-len(lines) // columns)
    figure, grid = new_figure(rows, columns, 1.4 + 1.75 * rows, sharex=True)
    panels = [axes for row in grid for axes in row]
    scale = _scale([[value for points in found.values() for _, value in points] for found in lines.values()])
    for axes, (name, found) in zip(panels, lines.items(), strict=False):
        for part, points in found.items():
            below: dict[str, Any] = {"zorder": 1, "markersize": 8} if part == SUM else {}
            every = max(1, len(points) // 8)
            axes.plot(*zip(*points, strict=True), label=part, markevery=every, **style[part], **below)
        axes.set_yscale(scale)
        axes.set_title(label(name))
        axes.locator_params(axis="x", integer=True)
    for axes in panels[len(lines) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel(f"{_WORDS[prefix].axis}{', log' * (scale == 'log')}")
    for axes in panels[max(0, len(lines) - len(grid[0])) : len(lines)]:
        axes.set_xlabel("epoch")
        axes.tick_params(labelbottom=True)
    handles = {words: h for axes in panels for h, words in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right center")
    what, _, caption = _WORDS[prefix]
    without = [name for name in group.plain if name not in lines]
    notes = [f"no {what.lower()}: {listed(without)}"] if without else []
    if prefix == LOSS and not any(curves(runs, GRADIENT) for runs in group.plain.values()):
        notes.append("gradient norms were not recorded (TRAIN.GRADIENT_NORMS True)")
    title = f"{what} over training: {group.title}"
    notes += group.notes(list(lines))
    return finish(figure, stem_of(f"training-{prefix}", *group.place), title, [caption, *notes])
