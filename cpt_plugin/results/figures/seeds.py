"""Spread over seeds: every seed a mark, the mean, and one standard deviation to both sides."""

from __future__ import annotations

from collections.abc import Sequence

from cpt_plugin.results.figures.group import Group
from cpt_plugin.results.figures.style import BLACK, Drawing, finish, label, looks, new_figure, percent_limits, stem_of
from cpt_plugin.results.text import listed, spread


def draw(groups: Sequence[Group]) -> list[Drawing]:
    """A figure for each group."""
    return [_draw(group) for group in groups]


def _draw(group: Group) -> Drawing:
    table = group.table
    rows = [row for row in table.rows if row.by_seed and row.method in group.plain]
    figure, [[axes]] = new_figure(1, 1, 1.3 + 0.27 * len(rows))
    style = looks([row.method for row in rows])
    for position, row in enumerate(rows):
        values = [metrics[table.headline] for metrics in row.by_seed.values()]
        summary, look = row.columns[table.headline], style[row.method]
        axes.plot(values, [position] * len(values), linestyle="", marker=look["marker"], color=look["color"],
                  alpha=0.75, label=row.method, zorder=3)  # fmt: skip
        if summary:
            axes.errorbar(summary.mean, position, xerr=summary.std, fmt="|", color=BLACK, markersize=13,
                          elinewidth=1, capsize=3, zorder=2)  # fmt: skip
        missing = f"; seeds {listed(row.missing)} missing" if row.missing else ""
        axes.annotate(
            f"{spread(summary)}  ({len(row.by_seed)}/{row.expected}{missing})", (1.01, position),
            xycoords=("axes fraction", "data"), va="center", fontsize=7, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [label(row.method) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    means = [summary for row in rows if (summary := row.columns[table.headline])]
    ends = [s.mean + way * (s.std or 0.0) for s in means for way in (-1, 1)]
    axes.set_xlim(*percent_limits([*ends, *(v[table.headline] for row in rows for v in row.by_seed.values())], 2.0))
    axes.set_xlabel(f"{table.headline} (%)")
    caption = "A mark is a seed; the bar is the mean and one standard deviation (ddof 1) to both sides, in black."
    notes = [caption, *group.notes([row.method for row in rows])]
    return finish(figure, stem_of("seeds", *group.place), f"Spread over seeds: {group.title}", notes)
