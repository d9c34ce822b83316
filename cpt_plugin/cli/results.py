"""`python -m cpt_plugin results export|import`: records as JSON lines, and accuracies out of the field's logs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.cli.arguments import Parser, typed_folder
from cpt_plugin.errors import RecordError
from cpt_plugin.methods import find_repository

_PROG = "python -m cpt_plugin results"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m cpt_plugin results`."""
    parser = Parser(prog=_PROG, description="What has been measured: records out, logs in.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
    return {"export": _export, "import": _import}[given.command](given)


def _export(given: argparse.Namespace) -> int:
    from cpt_plugin.results import store

    folder = typed_folder(given.folder, find_repository() / "output" if given.folder is None else given.folder)
    if not folder.exists():
        raise RecordError(f"{folder}: there is no such folder")
    records = store.load_all([folder])
    _put(store.to_lines(records), given.output)
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
        _put(imported.to_lines(runs), given.output)
    return 0


def _put(text: str, output: str | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    path = typed_folder(output, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)
