"""`python -m cpt_plugin results figures`: figures of a folder's records, and of features of its runs, as files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpt_plugin.cli.words import Parser, parse_seeds, typed_folder
from cpt_plugin.cli.writing import make_folder, write_file
from cpt_plugin.errors import ConfigError, CPTError, RecordError
from cpt_plugin.methods import find_repository
from cpt_plugin.results.figures.registry import FEATURES, KINDS, parse_kinds

if TYPE_CHECKING:
    from cpt_plugin.results.features import Features

FORMATS = ("png", "pdf")


def add_parser(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add ``figures`` to the commands of ``results``."""
    shown = "\n".join(f"  {name:<12} {kind.description} [{kind.material}]" for name, kind in KINDS.items())
    parser = commands.add_parser(
        "figures",
        help="figures of a folder's records, as PNG and PDF",
        epilog=f"kinds:\n{shown}\n\nFeatures are computed once from the checkpoints and stay beside the records.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="with records at any depth (default: output)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="default: FOLDER/figures")
    parser.add_argument("--kind", metavar="A,B,...", help="default: those from records; all: the others too")
    parser.add_argument("--format", metavar="A,B", default=",".join(FORMATS), help="png, pdf or both (default)")
    parser.add_argument("--seeds", metavar="A,B,...", help="expected of every run (default: those that occur)")
    parser.add_argument("--classes", choices=("trained", "new"), default="trained", help="whose features are shown")
    parser.add_argument("--root", metavar="FOLDER", help="image folders for features (default: $DATA_ROOT, else data)")


def figures(given: argparse.Namespace) -> int:
    """Carry out the command; returns 1 where some groups of records or runs could not be used, which are named.

    Raises:
        ConfigError: an unknown kind or format, or matplotlib is not installed.
        RecordError: there are no records.
    """
    from cpt_plugin.results.figures import style
    from cpt_plugin.results.figures.group import group_records, title_of
    from cpt_plugin.results.figures.panels import compare
    from cpt_plugin.results.figures.registry import draw
    from cpt_plugin.results.places import load_all

    kinds = parse_kinds([word for word in (given.kind or "").split(",") if word])
    forms = given.format.split(",")
    if unknown := [form for form in forms if form not in FORMATS]:
        raise ConfigError(f"figures come as {' and '.join(FORMATS)}, not as '{unknown[0]}'")
    folder = typed_folder(given.folder, find_repository() / "output")
    seeds = parse_seeds(given.seeds)
    records = load_all([folder]) if folder.exists() else []
    if not records:
        raise RecordError(f"{folder}: no records there: nothing to draw")
    groups, refused = group_records(records, seeds)
    for place, reason in refused.items():
        print(f"not drawn: {title_of(place)}: {reason}", file=sys.stderr)
    status = 1 if refused else 0
    material: dict[str, Sequence[object]] = {"records": groups}
    if any(KINDS[kind].material == FEATURES for kind in kinds):
        root = typed_folder(given.root, os.environ.get("DATA_ROOT") or find_repository() / "data")
        found, failed = collect_features(folder, root, given.classes)
        material[FEATURES] = compare(found)
        status = max(status, int(failed))
    output = typed_folder(given.output, folder / "figures")
    make_folder(output)
    for kind in kinds:
        drawings = draw(kind, material[KINDS[kind].material])
        for drawing in drawings:
            for form in forms:
                write_file(output / f"{drawing.stem}.{form}", style.to_bytes(drawing.figure, form))
        count = f"{len(drawings)} figure{'s' * (len(drawings) > 1)}"
        print(f"{kind}: {count if drawings else 'nothing to draw in these records'}", flush=True)
    print(f"figures: {output}")
    return status


def collect_features(folder: Path, root: Path, classes: str) -> tuple[list[Features], bool]:
    """Features of all plain runs with a record below a folder, and whether some could not be had (said on stderr)."""
    from cpt_plugin.cli.features import features_of
    from cpt_plugin.results.record import load

    found, failed = [], False
    for path in sorted(folder.rglob("record*.json")):
        if load(path).variant:
            continue
        print(f"features: {path.parent.relative_to(folder)}", flush=True)
        try:
            found.append(features_of(path, root, classes))
        except CPTError as error:
            failed = True
            print(f"no features: {path.parent}: {error}", file=sys.stderr)
    return found, failed
