"""A grid as text: terminal, Markdown, LaTeX (booktabs), CSV; the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cpt_plugin import _escapes
from cpt_plugin.results.grid import Block, Cell, Grid
from cpt_plugin.results.published import Published, sources
from cpt_plugin.results.spec import Column
from cpt_plugin.results.text import DASH, aligned, fitting, interval, listed, markdown, spread, wrapped

Mark = Callable[[str, int], str]
PUBLISHED = "published"
_UNVERIFIED, _COMPUTED = "?", "+"


def render_terminal(grid: Grid) -> str:
    """Aligned blocks at most 110 columns wide (a wider single column stays whole), then the notes."""
    blocks = [[wrapped(grid.title), wrapped(grid.subtitle)]]
    for block in grid.blocks:
        lines = _lines(grid, block, lambda text, rank: text + {1: " **", 2: " *"}.get(rank, ""))
        for part in fitting(lines):
            heading = [block.heading] if block.heading else []
            blocks.append([*heading, *aligned(part)])
    notes = [*differences(grid), *grid.notes, *legend(grid, "** best, * second best of the complete cells")]
    blocks.append([wrapped(line) for line in notes])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def render_markdown(grid: Grid) -> str:
    """A Markdown table a block, the notes, and every cell with n, spread, t-interval and its value for each seed."""
    lines = [f"# {_escapes.markdown(' '.join(grid.title.split()))}", "", _escapes.markdown(grid.subtitle), ""]
    for block in grid.blocks:
        heading = [f"## {_escapes.markdown(block.heading)}", ""] if block.heading else []
        marked = _lines(grid, block, lambda text, rank: {1: f"**{text}**", 2: f"*{text}*"}.get(rank, text))
        lines += [*heading, *markdown(marked), ""]
    notes = [*differences(grid), *grid.notes, *legend(grid, "bold: best, italic: second best of the complete cells")]
    lines += [*(f"- {_escapes.markdown(line)}" for line in notes), "", "## Every cell", ""]
    return "\n".join([*lines, *markdown(_details(grid))]) + "\n"


def render_latex(grid: Grid) -> str:
    r"""A ``tabular`` with booktabs' rules a block: best ``\textbf``, second best ``\underline``; notes as comments."""
    lines = [_comment(" ".join(grid.title.split())), _comment(grid.subtitle)]
    commands = {1: r"\textbf{%s}", 2: r"\underline{%s}"}
    for block in grid.blocks:
        table = _lines(grid, block, lambda text, rank: commands.get(rank, "%s") % text, _escapes.latex)
        rows = [" & ".join(cells) + r" \\" for cells in table]
        lines += [_comment(block.heading)] if block.heading else []
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}", r"\toprule", rows[0], r"\midrule"]
        lines += [*rows[1:], r"\bottomrule", r"\end{tabular}"]
    explained = legend(grid, "bold: best, underlined: second best of the complete cells")
    return "\n".join([*lines, *map(_comment, [*differences(grid), *grid.notes, *explained])]) + "\n"


def render_csv(grid: Grid) -> str:
    """A line a cell, every number unrounded, empty where there is no value; published figures in their own columns."""
    rows = [_record(grid, row, block, column, cell) for row, block, column, cell in _all_cells(grid)]
    return _escapes.csv_text(rows[0], rows)


def _lines(grid: Grid, block: Block, mark: Mark, escape: Callable[[str], str] = str) -> list[list[str]]:
    """Header and rows; a column of published figures follows each column that has some."""
    beside = [any(cells[index].published for cells in block.cells) for index in range(len(block.columns))]
    header = [""]
    for column, has_published in zip(block.columns, beside, strict=True):
        header += [escape(column.header), *([PUBLISHED] if has_published else [])]
    lines = [header]
    for row, cells in zip(grid.rows, block.cells, strict=True):
        line = [escape(row.label)]
        for cell, has_published in zip(cells, beside, strict=True):
            line.append(mark(escape(cell_text(cell)), cell.rank))
            line += [escape(published_text(cell.published))] if has_published else []
        lines.append(line)
    return lines


def cell_text(cell: Cell) -> str:
    """Mean and spread, with n/expected where incomplete and a mark where runs are not used."""
    if not cell.expected:
        return ""
    count = "" if cell.complete else f" ({len(cell.by_seed)}/{cell.expected}{' !' if cell.problem else ''})"
    return spread(cell.summary) + count


def published_text(figure: Published | None) -> str:
    """The printed value with the marks that the legend explains."""
    if figure is None:
        return ""
    return f"{figure.value:.2f}{_COMPUTED * figure.computed}{_UNVERIFIED * (not figure.verified)}"


def differences(grid: Grid) -> list[str]:
    """A line for each cell that has a baseline: the paired difference and its interval."""
    lines = []
    for row, block, column, cell in _all_cells(grid):
        if (gain := cell.difference) is not None:
            place = f"{column.header}{f', {block.heading}' if block.heading else ''}"
            certainty = f"95 % t-interval {interval(gain, 2)}" if gain.interval else "no interval from one seed"
            baseline = grid.baselines[row]
            seeds = listed(cell.paired)
            lines.append(f"{place}, {row} - {baseline}: {gain.mean:+z.2f}, {certainty}, paired over seeds {seeds}")
    return lines


def legend(grid: Grid, ranks: str) -> list[str]:
    """What the marks mean, and the sources of published figures; ``ranks``: how best and second best are shown."""
    figures = {cell.published for *_, cell in _all_cells(grid) if cell.published}
    lines = [f"{ranks}; !: some runs are not used, see above"]
    if figures:
        where = "" if grid.on_photos else ", of the eleven photo data sets, not of what was measured here"
        lines.append(
            f"{PUBLISHED}: printed by others{where}, never ranked or averaged with ours; {_COMPUTED} computed from "
            f"published base and new accuracies; {_UNVERIFIED} not verified"
        )
        used = sorted({key for figure in figures for key in figure.source.split(", ")})
        lines += [f"published, source {key}: {sources()[key]}" for key in used]
        noted = [figure for figure in figures if figure.note]
        lines += sorted(f"published, {one.method}, {one.metric}, tau {one.tau:g}: {one.note}" for one in noted)
    return lines


def _details(grid: Grid) -> list[list[str]]:
    lines = [["", "column", "n/expected", "mean", "std", "95 % t-interval", "by seed"]]
    for row, block, column, cell in _all_cells(grid):
        if cell.expected:
            found = cell.summary
            lines.append([
                f"{row}{f', {block.heading}' if block.heading else ''}",
                column.header,
                f"{len(cell.by_seed)}/{cell.expected}",
                f"{found.mean:.2f}" if found else DASH,
                DASH if found is None or found.std is None else f"{found.std:.2f}",
                interval(found, 2) if found and found.interval else DASH,
                listed([f"{seed}: {value:.2f}" for seed, value in cell.by_seed.items()]) or DASH,
            ])  # fmt: skip
    return lines


def _record(grid: Grid, row: str, block: Block, column: Column, cell: Cell) -> dict[str, object]:
    found, gain, figure = cell.summary, cell.difference, cell.published
    low, high = (found and found.interval) or (None, None)
    gain_low, gain_high = (gain and gain.interval) or (None, None)
    spec = next(spec for spec in grid.rows if spec.label == row)
    return {
        "row": row,
        "method": spec.method,
        "variant": spec.variant,
        "block": block.heading,
        "column": column.header,
        "protocol": column.protocol,
        "tau": column.tau,
        "datasets": " ".join(column.datasets),
        "metric": column.metric,
        "n": len(cell.by_seed),
        "expected": cell.expected,
        "problem": int(cell.problem),
        "mean": found.mean if found else None,
        "std": found.std if found else None,
        "low": low,
        "high": high,
        "rank": cell.rank or None,
        "by_seed": " ".join(f"{seed}:{value!r}" for seed, value in cell.by_seed.items()),
        "baseline": grid.baselines.get(row) if gain else None,
        "difference": gain.mean if gain else None,
        "pairs": gain.n if gain else 0,
        "difference_low": gain_low,
        "difference_high": gain_high,
        "published": figure.value if figure else None,
        "published_source": figure.source if figure else None,
        "published_verified": int(figure.verified) if figure else None,
        "published_computed": int(figure.computed) if figure else None,
        **({"note": grid.warning} if grid.warning else {}),
    }


def _all_cells(grid: Grid) -> list[tuple[str, Block, Column, Cell]]:
    return [
        (row.label, block, column, cell)
        for block in grid.blocks
        for row, cells in zip(grid.rows, block.cells, strict=True)
        for column, cell in zip(block.columns, cells, strict=True)
    ]


def _comment(line: str) -> str:
    return f"% {_escapes.one_line(line)}"


RENDERERS: dict[str, Callable[[Grid], str]] = {
    "terminal": render_terminal,
    "markdown": render_markdown,
    "csv": render_csv,
    "latex": render_latex,
}
SUFFIXES: Sequence[tuple[str, str]] = ((".md", "markdown"), (".csv", "csv"), (".tex", "latex"))
