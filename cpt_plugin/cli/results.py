"""`python -m cpt_plugin results table|figures|export|import`: tables and figures from records, logs of others."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.cli import figures
from cpt_plugin.cli.words import Parser, parse_seeds, typed_folder
from cpt_plugin.errors import ConfigError, RecordError
from cpt_plugin.methods import find_repository, parse_tau
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.spec import WORLDS, TableSpec, load_spec, table_names

_PROG = "python -m cpt_plugin results"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m cpt_plugin results`."""
    parser = Parser(prog=_PROG, description="What has been measured, as tables and as files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="a table of configs/tables from records; or all tables of a folder")
    table.add_argument("what", metavar="TABLE|FOLDER", help="a name or yaml; a folder or .jsonl file of records")
    table.add_argument("--records", metavar="PLACE", action="append", help="folder or .jsonl file (default: output)")
    table.add_argument("--world", choices=WORLDS, default="shapes", help="the drawn worlds, or photographs")
    table.add_argument("--seeds", metavar="A,B,...", help="expected of every run (default: the table's)")
    table.add_argument("--taus", metavar="A,B,...", help="imbalance ratios (default: the table's)")
    table.add_argument("--format", choices=("terminal", "markdown", "csv", "latex"), default="terminal")
    table.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    figures.add_parser(commands)
    export = commands.add_parser("export", help="all records of a folder as JSON lines")
    export.add_argument("folder", metavar="FOLDER", nargs="?", help="with records at any depth (default: output)")
    export.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    imported = commands.add_parser("import", help="accuracies from <experiment>/<seed>/log.txt of Dassl's family")
    imported.add_argument("folder", metavar="FOLDER", help="with log.txt at any depth")
    imported.add_argument("-o", "--output", metavar="FILE", help="also write them there as JSON lines")
    return parser


def main(words: Sequence[str]) -> int:
    """Carry out `results ...`; returns the exit status.

    Raises CPTError for what cannot be read.
    """
    given = build_parser().parse_args(list(words))
    commands = {"table": _table, "figures": figures.figures, "export": _export, "import": _import}
    return commands[given.command](given)


def spec_of(name: str, taus: str | None) -> TableSpec:
    """A table by name or file, with other imbalance ratios where they are given."""
    spec = load_spec(str(typed_folder(name, name)) if Path(name).suffix else name, find_repository())
    return dataclasses.replace(spec, taus=tuple(map(parse_tau, taus.split(",")))) if taus else spec


def _table(given: argparse.Namespace) -> int:
    from cpt_plugin.results import grid, render, store

    place = typed_folder(given.what, given.what)
    if given.what not in table_names(find_repository()) and (place.is_dir() or place.suffix in (".jsonl", ".json")):
        put(_single_tables(store.load_all([place]), given.format), given.output)
        return 0
    spec = spec_of(given.what, given.taus)
    places = [typed_folder(word, word) for word in given.records or [find_repository() / "output"]]
    seeds = parse_seeds(given.seeds) if given.seeds else ()
    failures = [failure for place in places if place.is_dir() for failure in store.load_failures(place)]
    filled = grid.build_grid(spec, given.world, store.load_all(places), seeds, failures)
    put(render.RENDERERS[given.format](filled), given.output)
    return 0


def _single_tables(records: Sequence[RunRecord], form: str) -> str:
    """A table for each data set, imbalance ratio and protocol."""
    from cpt_plugin.results import table

    renderers = {"terminal": table.render_terminal, "markdown": table.render_markdown, "csv": table.render_csv}
    if form not in renderers:
        raise ConfigError(f"tables of a folder come as {', '.join(renderers)}, not as {form}")
    groups: dict[tuple[str, float, str], list[RunRecord]] = {}
    for record in sorted(records, key=lambda one: (one.dataset, -one.tau, one.protocol)):
        groups.setdefault((record.dataset, record.tau, record.protocol), []).append(record)
    if not groups:
        raise RecordError("no records there: nothing to make a table of")
    return "\n".join(renderers[form](group) for group in groups.values())


def _export(given: argparse.Namespace) -> int:
    from cpt_plugin.results import store

    folder = typed_folder(given.folder, find_repository() / "output")
    if not folder.exists():
        raise RecordError(f"{folder}: there is no such folder")
    records = store.load_all([folder])
    put(store.to_lines(records), given.output)
    if given.output:
        print(f"{len(records)} records: {given.output}")
    return 0


def _import(given: argparse.Namespace) -> int:
    from cpt_plugin.results import imported

    runs, own = imported.read_logs(typed_folder(given.folder, given.folder))
    print(imported.describe(runs))
    if own:
        print(f"{own} logs are of this package's own runs, which have records: passed over")
    if given.output:
        put(imported.to_lines(runs), given.output)
    return 0


def put(text: str, output: str | None) -> None:
    """Write to a file, whose folder is made when missing, or to standard output."""
    if output is None:
        sys.stdout.write(text)
        return
    path = typed_folder(output, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)
