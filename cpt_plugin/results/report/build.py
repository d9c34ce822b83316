"""The page from its sections and figures; the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cpt_plugin.errors import ConfigError
from cpt_plugin.results.figures import style
from cpt_plugin.results.figures.group import group_records
from cpt_plugin.results.figures.panels import compare
from cpt_plugin.results.figures.registry import FEATURES, KINDS, RECORDS, draw
from cpt_plugin.results.grid import Grid
from cpt_plugin.results.imported_records import is_imported
from cpt_plugin.results.report import html, sections
from cpt_plugin.results.report.gather import Gathered

DPI = 130
_ACROSS = "sensitivity"
_OF_LOGS = "seeds"
"""What can be drawn of imported logs, which tell no classes and no epochs."""


def build(
    gathered: Gathered,
    page: Path,
    seeds: Sequence[int] = (),
    grids: Sequence[Grid] = (),
    with_figures: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> str:
    """The HTML of a report that will lie at ``page``.

    seeds: those expected of every run (default: those that occur for each data set, tau and protocol); grids: tables
    over several data sets; tell: takes a line for each part of the work.
    """
    groups, refused = group_records(gathered.records, seeds)
    figures = _Figures(with_figures)
    body: dict[str, str] = {"Overview": sections.overview(gathered)}
    for grid in grids:
        body[grid.title] = sections.grid_table(grid)
    for group in groups:
        tell(group.title)
        kinds = [name for name, kind in KINDS.items() if kind.material == RECORDS and name != _ACROSS]
        kinds = [_OF_LOGS] if is_imported(group.table.toolkit) else kinds
        drawn = "".join(figures.of(kind, [group]) for kind in kinds)
        body[group.title] = sections.group_table(group) + drawn
    if across := figures.of(_ACROSS, [group for group in groups if not is_imported(group.table.toolkit)]):
        body["One setting at a time"] = across
    if gathered.features:
        tell("features")
        comparisons = compare(gathered.features)
        kinds = [name for name, kind in KINDS.items() if kind.material == FEATURES]
        body["Features"] = "".join(figures.of(kind, comparisons) for kind in kinds)
    if with_figures and figures.problem:
        tell(figures.problem)
    body["Missing and failed"] = sections.lacking(gathered, groups, refused)
    if gathered.found:
        body["Runs"] = sections.runs(gathered, page)
        body["Configuration"] = sections.configuration(gathered.records)
        body["Environment"] = sections.environment(gathered.records)
    title = f"Results in {gathered.folder.name}"
    anchors = {name: f"part-{number}" for number, name in enumerate(body, 1)}
    contents = "".join(f'<li><a href="#{anchor}">{html.text(name)}</a></li>' for name, anchor in anchors.items())
    parts = "\n".join(html.heading(2, name, anchors[name]) + content for name, content in body.items())
    notes = html.paragraph(figures.problem) if figures.problem else ""
    footer = "<footer>Accuracies are percentages of test images. A click on the head of a column sorts by it.</footer>"
    return html.page(title, f"{html.heading(1, title)}\n<nav><ul>{contents}</ul></nav>\n{notes}{parts}\n{footer}")


class _Figures:
    """Draws as long as the packages for it are there; what is not drawn is said once."""

    def __init__(self, wanted: bool) -> None:
        self.problem = "" if wanted else "Figures were not asked for."

    def of(self, kind: str, material: Sequence[object]) -> str:
        if self.problem:
            return ""
        try:
            drawings = draw(kind, material)
        except ConfigError as error:
            self.problem = f"Without figures: {error}"
            return ""
        return "".join(html.image(style.to_bytes(one.figure, "png", DPI, notes=False), one.caption) for one in drawings)
