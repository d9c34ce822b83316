"""Accuracy by the value of one setting, all others as in the plain run: loss weights, cluster size, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cpt_plugin.results.figures.group import Group, title_of
from cpt_plugin.results.figures.style import Drawing, finish, label, looks, new_figure, panels_beside, stem_of
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.runs import BY_SEED_KEYS, REHEARSAL
from cpt_plugin.results.stats import Summary, summarize


def draw(groups: Sequence[Group]) -> list[Drawing]:
    """A figure for each method, tau and protocol with runs that differ from the plain ones in one number.

    Data sets on which accuracies mean nothing are no part of it, unless there are no others.
    """
    measured = [group for group in groups if not group.is_rehearsal]
    together: dict[tuple[str, float | str, str], list[tuple[Group, dict[str, dict[float, Summary]]]]] = {}
    for group in measured or groups:
        for method in sorted({runs[0].method for runs in group.runs.values() if runs}):
            if found := curves(group, method):
                together.setdefault((method, *group.place[1:]), []).append((group, found))
    left_out = sorted({group.table.dataset for group in groups if measured and group.is_rehearsal})
    said = [f"left out, accuracies mean nothing there: {', '.join(left_out)}"] if left_out else []
    said += [] if measured else [REHEARSAL]
    return [_draw(place[0], members, said) for place, members in together.items()]


def curves(group: Group, method: str) -> dict[str, dict[float, Summary]]:
    """For each setting that runs of a method change alone: its values in order, with the headline over seeds."""
    plain = group.runs.get(method, ())
    if not plain:
        return {}
    found: dict[str, dict[float, Summary]] = {}
    for runs in group.runs.values():
        changed = _changes(plain[0], runs[0]) if runs and runs[0].method == method and runs[0].variant else {}
        if len(changed) == 1:
            [(key, (before, value))] = changed.items()
            if _number(before) and _number(value):
                line = found.setdefault(key, {float(before): _headline(group, plain)})
                line[float(value)] = _headline(group, runs)
    return {key: dict(sorted(line.items())) for key, line in sorted(found.items())}


def _draw(
    method: str, members: Sequence[tuple[Group, dict[str, dict[float, Summary]]]], said: Sequence[str]
) -> Drawing:
    keys = sorted({key for _, found in members for key in found})
    style = looks([group.table.dataset for group, _ in members])
    columns = panels_beside(len(keys))
    rows = -(-len(keys) // columns)
    figure, grid = new_figure(rows, columns, 1.6 + 2.0 * rows, sharey=True)
    panels = [axes for row in grid for axes in row]
    for axes, key in zip(panels, keys, strict=False):
        values = sorted({value for _, found in members for value in found.get(key, {})})
        for group, found in members:
            line = found.get(key, {})
            look = style[group.table.dataset]
            axes.errorbar(
                [values.index(value) for value in line], [summary.mean for summary in line.values()],
                yerr=[summary.std or 0.0 for summary in line.values()], capsize=2, elinewidth=0.8,
                label=label(group.table.dataset), **look,
            )  # fmt: skip
            plain = float(group.runs[method][0].config[key])
            if plain in line:
                axes.plot(values.index(plain), line[plain].mean, linestyle="", marker="o", markersize=11,
                          markerfacecolor="none", color=look["color"])  # fmt: skip
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.set_xlabel(key)
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    table = members[0][0].table
    for row in grid:
        row[0].set_ylabel(f"{table.headline} (%)")
    handles = {words: h for axes in panels for h, words in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right center")
    caption = (
        "One setting at a time, its values in order but not to scale; mean and one standard deviation over seeds; "
        "the ring marks the setting of the plain runs."
    )
    missing = [
        f"{group.table.dataset}: {note}" for group, _ in members for note in group.notes() if f" {method}" in note
    ]
    title = f"{method}: one setting at a time, {title_of(members[0][0].place).split(', ', 1)[1]}"
    return finish(figure, stem_of("sensitivity", method, *members[0][0].place[1:]), title, [caption, *said, *missing])


def _changes(plain: RunRecord, other: RunRecord) -> dict[str, tuple[Any, Any]]:
    keys = {*plain.config, *other.config} - BY_SEED_KEYS
    pairs = {key: (plain.config.get(key), other.config.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _headline(group: Group, runs: Sequence[RunRecord]) -> Summary:
    summary = summarize([record.metrics[group.table.headline] for record in runs])
    assert summary is not None
    return summary
