"""`python -m cpt_plugin report`: one HTML page about an output folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cpt_plugin.cli.words import Parser, parse_seeds, typed_folder
from cpt_plugin.cli.writing import write_file
from cpt_plugin.methods import find_repository
from cpt_plugin.results.grid import Grid
from cpt_plugin.results.spec import WORLDS

_PROG = "python -m cpt_plugin report"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = Parser(
        prog=_PROG,
        description="One self-contained HTML page: tables, figures, what is missing or failed, links to every run,\n"
        "configuration, environment. It works offline and loads nothing.",
        epilog="Heat maps and t-SNE are drawn from features that `python -m cpt_plugin results figures FOLDER\n"
        "--kind similarity,tsne` has kept beside the records.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="with records at any depth (default: output)")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: FOLDER/report.html")
    parser.add_argument("--seeds", metavar="A,B,...", help="expected of every run (default: those that occur)")
    parser.add_argument("--table", metavar="TABLE", action="append", default=[], help="also this one of configs/tables")
    parser.add_argument("--world", choices=WORLDS, default="shapes", help="of these tables (default: shapes)")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    return parser


def main(words: Sequence[str]) -> int:
    """Carry out ``report ...``; returns the exit status.

    Raises:
        ConfigError: an unknown table, or wrong options.
        RecordError: there is nothing to report on.
    """
    given = build_parser().parse_intermixed_args(list(words))
    from cpt_plugin.results.report.build import build
    from cpt_plugin.results.report.gather import Gathered, gather

    folder = typed_folder(given.folder, find_repository() / "output")
    seeds = parse_seeds(given.seeds)
    gathered: Gathered = gather(folder)
    page = typed_folder(given.output, folder / "report.html")
    grids = [_grid(name, given.world, gathered.records, seeds, gathered.failures) for name in given.table]

    def tell(line: str) -> None:
        print(f"report: {line}", file=sys.stderr, flush=True)

    text = build(gathered, page, seeds, grids, not given.no_figures, tell)
    write_file(page, text)
    count = len(gathered.damaged)
    damaged = f", {count} damaged file{'s' * (count > 1)} named in it" if count else ""
    print(f"report on {len(gathered.found)} runs{damaged}: {page}")
    return 0


def _grid(name: str, world: str, records: Sequence, seeds: Sequence[int], failures: Sequence) -> Grid:
    from cpt_plugin.results.grid import build_grid
    from cpt_plugin.results.spec import load_spec

    spec = load_spec(str(typed_folder(name, name)) if Path(name).suffix else name, find_repository())
    return build_grid(spec, world, records, seeds, failures)
