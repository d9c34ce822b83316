"""`python -m cpt_plugin results table|figures|render|export|import`: tables and figures from records, others' logs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cpt_plugin.cli import figures
from cpt_plugin.cli.words import Parser, parse_seeds, parse_taus, typed_folder
from cpt_plugin.cli.writing import write_file
from cpt_plugin.errors import ConfigError, RecordError
from cpt_plugin.methods import find_repository, parse_dataset
from cpt_plugin.results.grid import Grid, build_grid
from cpt_plugin.results.record import RunRecord
from cpt_plugin.results.runs import run_of
from cpt_plugin.results.spec import WORLDS, TableSpec, load_spec, table_names
from cpt_plugin.results.store import Failure

_PROG = "python -m cpt_plugin results"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m cpt_plugin results`."""
    parser = Parser(prog=_PROG, description="What has been measured, as tables and as files.",
                    epilog=f"{_PROG} FOLDER is short for {_PROG} table FOLDER.")  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="a table of configs/tables from records; or all tables of a folder")
    table.add_argument("what", metavar="TABLE|FOLDER", help="a name or yaml; a folder or .jsonl[.gz] of records")
    table.add_argument("--records", metavar="PLACE", action="append", help="folder or .jsonl[.gz] (default: output)")
    table.add_argument("--world", choices=WORLDS, default="shapes", help="the drawn worlds, or photographs")
    table.add_argument("--datasets", metavar="A,B,...", help="instead of the table's own of that world")
    table.add_argument("--seeds", metavar="A,B,...", help="expected of every run (default: the table's)")
    table.add_argument("--taus", metavar="A,B,...", help="imbalance ratios (default: the table's)")
    table.add_argument("--format", choices=("terminal", "markdown", "csv", "latex"), default="terminal")
    table.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    figures.add_parser(commands)
    rendered = commands.add_parser("render", help="the tables and comparisons of a folder's manifest.yaml, again")
    rendered.add_argument("folder", metavar="FOLDER", help="with records and manifest.yaml (docs/tables.md)")
    rendered.add_argument("--check", action="store_true", help="write nothing; 1 where a file's bytes would change")
    export = commands.add_parser("export", help="all records of a folder as JSON lines")
    export.add_argument("folder", metavar="PLACE", nargs="?",
                        help="folder with records at any depth (default: output), or .jsonl[.gz]")  # fmt: skip
    export.add_argument("-o", "--output", metavar="FILE", help=".jsonl or .jsonl.gz (default: standard output)")
    export.add_argument("--without-history", action="store_true", help="without the values of each epoch: figures "
                        "of training and collapse need them, tables do not")  # fmt: skip
    export.add_argument("--except", metavar="PLACE", action="append", default=[], dest="known",
                        help="leave out the runs that this folder or .jsonl[.gz] has; may be given again")  # fmt: skip
    imported = commands.add_parser("import", help="accuracies from <experiment>/<seed>/log.txt of Dassl's family")
    imported.add_argument("folder", metavar="FOLDER", help="with log.txt at any depth")
    imported.add_argument("-o", "--output", metavar="FILE", help="also write them there as JSON lines")
    return parser


def main(words: Sequence[str]) -> int:
    """Carry out `results ...`; returns the exit status.

    A folder or file in place of a command means its tables.

    Raises CPTError for what cannot be read.
    """
    commands = {
        "table": _table,
        "figures": figures.figures,
        "render": _render,
        "export": _export,
        "import": _import,
    }
    place = bool(words) and words[0] not in commands and typed_folder(words[0], words[0]).exists()
    given = build_parser().parse_args(["table", *words] if place else list(words))
    return commands[given.command](given)


def table_grid(
    given: argparse.Namespace, spec: TableSpec, records: Iterable[RunRecord], failures: Iterable[Failure] = ()
) -> Grid:
    """The table that the words of ``results table`` ask for, from these records."""
    return build_grid(spec, given.world, records, parse_seeds(given.seeds), failures)


def table_spec(given: argparse.Namespace, base: Path | None = None) -> TableSpec:
    """A table by name or file, with other imbalance ratios and data sets where they are given.

    A yaml's path counts from ``base``, by default from where the command was typed.
    """
    repository, path = find_repository(), Path(given.what)
    if path.suffix:
        path = base / path if base else typed_folder(given.what, given.what)
    spec = load_spec(str(path), repository)
    spec = dataclasses.replace(spec, taus=parse_taus(given.taus) or spec.taus)
    if given.datasets:
        names = tuple(dict.fromkeys(parse_dataset(name, repository) for name in given.datasets.split(",")))
        photos = given.world == "real"
        spec = dataclasses.replace(spec, real=names) if photos else dataclasses.replace(spec, shapes=names)
    return spec


def _table(given: argparse.Namespace) -> int:
    from cpt_plugin.results import render, store
    from cpt_plugin.results.places import load_all

    place = typed_folder(given.what, given.what)
    is_records = place.is_dir() or place.suffix == ".json" or store.is_lines(place)
    if given.what not in table_names(find_repository()) and is_records:
        said: list[str] = []
        put(_single_tables(load_all([place], imported=said), given.format), given.output)
        print("\n".join(said), file=sys.stderr, end="\n" * bool(said))
        return 0
    spec = table_spec(given)
    places = [typed_folder(word, word) for word in given.records or [find_repository() / "output"]]
    failures = [failure for place in places if place.is_dir() for failure in store.load_failures(place)]
    put(render.RENDERERS[given.format](table_grid(given, spec, load_all(places), failures)), given.output)
    return 0


def _render(given: argparse.Namespace) -> int:
    from cpt_plugin.cli.rendered import render_folder

    return render_folder(typed_folder(given.folder, given.folder), given.check)


def _single_tables(records: Sequence[RunRecord], form: str) -> str:
    """A table for each data set, imbalance ratio and protocol, of imported logs for each number of shots as well."""
    from cpt_plugin.results import table
    from cpt_plugin.results.figures.group import by_table
    from cpt_plugin.results.summary import build_table

    renderers = {"terminal": table.render_terminal, "markdown": table.render_markdown}
    if form not in (*renderers, "csv"):
        raise ConfigError(f"tables of a folder come as {', '.join(renderers)} or csv, not as {form}")
    groups = by_table(records)
    if not groups:
        raise RecordError("no records there: nothing to make a table of")
    if form == "csv":
        return table.csv_of([build_table(group) for group in groups.values()])
    return "\n".join(renderers[form](group) for group in groups.values())


def _export(given: argparse.Namespace) -> int:
    from cpt_plugin.results import store
    from cpt_plugin.results.places import load_all

    place = typed_folder(given.folder, find_repository() / "output")
    if not place.exists():
        raise RecordError(f"{place}: there is no such folder")
    records = load_all([place])
    if not records:
        raise RecordError(f"{place}: no records there: nothing to export")
    known = {run_of(record) for record in load_all(typed_folder(word, word) for word in given.known)}
    kept = [record for record in records if run_of(record) not in known]
    if given.without_history:
        kept = [dataclasses.replace(record, history=()) for record in kept]
    put(store.to_lines(kept), given.output)
    if given.output:
        left_out = f", {len(records) - len(kept)} left out that are elsewhere" if given.known else ""
        print(f"{len(kept)} records{left_out}: {given.output}")
    return 0


def _import(given: argparse.Namespace) -> int:
    from cpt_plugin.results import imported
    from cpt_plugin.results.imported_records import as_records

    runs, own = imported.read_logs(typed_folder(given.folder, given.folder))
    print(imported.describe(runs))
    records, said = as_records(runs)
    if paired := sum("H" in record.metrics for record in records):
        print(f"{paired} runs with base and new of the same prompts (H), {len(records) - paired} on all classes")
    for line in said:
        print(line, file=sys.stderr)
    if own:
        print(f"{own} logs are of this package's own runs, which have records: passed over")
    if given.output:
        put(imported.to_lines(runs), given.output)
        print(f"tables: results table {given.output}; likewise compare A B {given.output}, and report")
    return 0


def put(text: str, output: str | None) -> None:
    """Write to a file (compressed if it is called so), whose folder is made when missing, or to standard output."""
    from cpt_plugin.results.store import COMPRESSED, compressed

    if output is None:
        sys.stdout.write(text)
        return
    path = typed_folder(output, output)
    write_file(path, compressed(text) if path.suffix == COMPRESSED else text)
