"""Paired differences as a forest plot: a row for each comparison, every world a dot, the mean with its interval."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from cpt_plugin.results.compare import Comparison
from cpt_plugin.results.contrast import ABOVE, BELOW, CLAIM_WORLDS, Contrast
from cpt_plugin.results.figures.style import BLACK, COLORS, GREY, Drawing, finish, label, look, new_figure, stem_of
from cpt_plugin.results.text import shown_tau

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(comparison: Comparison) -> Drawing:
    """A panel for each metric beside each other; filled marks where a difference may be claimed.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with look():
        return _draw(comparison)


def _draw(comparison: Comparison) -> Drawing:
    metrics = list(dict.fromkeys(one.metric for one in comparison.contrasts))
    rows = list(dict.fromkeys((one.first, one.second, one.tau) for one in comparison.contrasts))
    taus = {tau for _, _, tau in rows}
    figure, [panels] = new_figure(1, len(metrics), 1.25 + 0.23 * len(rows), sharey=True)
    for metric, axes, color in zip(metrics, panels, cycle(COLORS), strict=False):
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for one in comparison.contrasts:
            if one.metric == metric:
                _mark(axes, one, rows.index((one.first, one.second, one.tau)), color)
        axes.set_xlabel(f"difference in {metric} (points)")
    names = [
        label(f"{first} - {second}" + (f", tau {shown_tau(tau)}" if len(taus) > 1 else ""))
        for first, second, tau in rows
    ]
    panels[0].set_yticks(range(len(rows)), names)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    correction = comparison.correction
    unit = "seeds" if all(len(one.paired) < 2 for one in comparison.contrasts) else "worlds"
    notes = [
        f"A grey dot is a world (mean over its seeds); the mark is the mean over {unit} with its "
        f"{100 * correction.confidence:.4g} % t-interval{', not corrected' if correction.method == 'holm' else ''}; "
        f"filled: may be claimed (p below 5 %{' as corrected' if correction.method else ''}, {CLAIM_WORLDS} worlds "
        "or more).",
        *comparison.notes,
    ]
    shown = ", ".join(shown_tau(tau) for tau in sorted(taus))
    title = f"Paired differences, {unit[:-1]} as the random effect: {comparison.protocol}, tau {shown}"
    return finish(figure, stem_of("differences", comparison.protocol, *sorted(taus)), title, notes)


def _mark(axes: Axes, contrast: Contrast, position: int, color: str) -> None:
    found = contrast.difference
    if found is None:
        axes.text(0, position, " no pairs", va="center", fontsize=6.5, color=GREY)
        return
    worlds = [one.mean for world in contrast.worlds if (one := world.difference)]
    axes.plot(worlds, [position] * len(worlds), ".", color=GREY, markersize=3.5, alpha=0.7, zorder=2)
    low, high = found.interval or (found.mean, found.mean)
    axes.errorbar(
        found.mean, position, xerr=[[found.mean - low], [high - found.mean]], fmt="o", color=color, capsize=2.5,
        markerfacecolor=color if contrast.verdict in (ABOVE, BELOW) else "white", zorder=3,
    )  # fmt: skip
