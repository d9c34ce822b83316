"""Accuracy by how often classes were seen in training: thirds by rank, and bands of image counts."""

from __future__ import annotations

from collections.abc import Sequence

from cpt_plugin.results.figures.group import Group
from cpt_plugin.results.figures.style import COLORS, Drawing, finish, label, new_figure, percent_limits, stem_of
from cpt_plugin.results.groups import BANDS, THIRDS
from cpt_plugin.results.text import listed

_MARKERS = ("o", "s", "^")


def draw(groups: Sequence[Group]) -> list[Drawing]:
    """A figure for each group."""
    return [_draw(group) for group in groups]


def _draw(group: Group) -> Drawing:
    rows = [row for row in group.table.rows if row.by_seed and row.method in group.plain]
    figure, [panels] = new_figure(1, 2, 1.8 + 0.27 * len(rows), sharex=True, sharey=True)
    shown: list[float] = []
    for axes, names, title in zip(panels, (THIRDS, BANDS), ("thirds by rank", "by training images"), strict=True):
        for shift, name, marker, color in zip((-0.22, 0, 0.22), names, _MARKERS, COLORS, strict=False):
            found = [(place + shift, row.columns[name]) for place, row in enumerate(rows)]
            present = [(place, summary) for place, summary in found if summary]
            sizes = group.table.group_sizes[name]
            words = f"{name} ({listed(sizes) if any(sizes) else 0})"
            means = [summary.mean for _, summary in present]
            axes.errorbar(
                means, [place for place, _ in present], xerr=[summary.std or 0.0 for _, summary in present],
                fmt=marker, color=color, elinewidth=0.9, capsize=2, label=words,
            )  # fmt: skip
            shown += [s.mean + way * (s.std or 0.0) for _, s in present for way in (-1, 1)]
        axes.set_xlabel(f"accuracy (%), {title}")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=0.6, handletextpad=0.1)
    panels[0].set_yticks(range(len(rows)), [label(row.method) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_xlim(*percent_limits(shown))
    caption = (
        "Mean per-class accuracy of the classes trained on (in parentheses: how many), with one standard deviation "
        f"over seeds; of training images, {group.table.bands}."
    )
    title = f"Accuracy by class frequency: {group.title}"
    return finish(figure, stem_of("groups", *group.place), title, [caption, *group.notes([row.method for row in rows])])
