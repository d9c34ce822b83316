"""Arguments of `scripts/reproduce.sh`, checked before anything is installed; standard library only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpt_plugin._names import nearest
from cpt_plugin.cli.console import attended
from cpt_plugin.cli.slurm_arguments import SlurmOptions, add_launcher, parse_launcher
from cpt_plugin.cli.words import Parser, data_root, parse_count, parse_seeds, parse_taus, report, typed_folder
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.methods import find_repository
from cpt_plugin.results.spec import WORLDS, table_names

_EXAMPLES = """\
examples:
  bash scripts/reproduce.sh ablation                         on the embedded worlds: needs no download
  bash scripts/reproduce.sh cpt_main --dry-run               what would run, what is there, about how long
  bash scripts/reproduce.sh cross_dataset --seeds 1,2 --taus 0.05,0.01
  bash scripts/reproduce.sh cpt_main --world real --root ~/data
  bash scripts/reproduce.sh cpt_main --launcher slurm --workers 20 --slurm-time 2:00:00 --slurm-gpus 1

The same command given again does what is left; runs made by scripts/run.sh count as well."""


@dataclass(frozen=True)
class ReproduceArguments:
    """What one call of `scripts/reproduce.sh` asks for; seeds and taus are empty for the table's own.

    slurm: None for processes on this machine.
    """

    table: str
    world: str
    seeds: tuple[int, ...]
    taus: tuple[float, ...]
    root: Path
    output: Path
    workers: int
    shots: int
    epochs: int | None
    backbone: str | None
    dry_run: bool
    slurm: SlurmOptions | None


def build_parser(prog: str = "scripts/reproduce.sh") -> argparse.ArgumentParser:
    """The parser behind `scripts/reproduce.sh` and `python -m cpt_plugin reproduce`."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} TABLE [options]",
        description=f"Make a table of configs/tables: do the runs it needs and that are not there, then print it.\n"
        f"TABLE: {', '.join(table_names(find_repository()))}, or a yaml of your own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("table", metavar="TABLE", help="a name or a yaml file")
    parser.add_argument("--world", choices=WORLDS, default="shapes", help="drawn worlds (default), or photographs")
    parser.add_argument("--seeds", metavar="A,B,...", help="default: as the table says")
    parser.add_argument("--taus", metavar="A,B,...", help="imbalance ratios (default: as the table says)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and an estimate of the time; run nothing")
    parser.add_argument("--workers", default="2", metavar="N", help="processes at once, a thread each (default: 2)")
    parser.add_argument("--shots", default="16", metavar="N", help="images a class at most (default: 16)")
    parser.add_argument("--epochs", metavar="N", help="default: as configured for each method")
    parser.add_argument("--backbone", metavar="NAME", help="default: micro for shapes, ViT-B/16 otherwise")
    parser.add_argument("--root", metavar="FOLDER", help="image folders (default: $DATA_ROOT, else data)")
    parser.add_argument("--output", metavar="FOLDER", help="records and tables (default: output)")
    add_launcher(parser)
    return parser


def parse_reproduce(argv: Sequence[str], prog: str = "scripts/reproduce.sh") -> ReproduceArguments:
    """Check the words of a command.

    Raises ConfigError (one line) for words that mean nothing.
    """
    repository = find_repository()
    given = build_parser(prog).parse_intermixed_args(list(argv))
    table = given.table
    if table.endswith((".yaml", ".yml")):
        table = str(typed_folder(table, table))
    elif table not in (names := table_names(repository)):
        raise ConfigError(f"no table '{table}'; nearest: '{nearest(table, names)}'; possible: {', '.join(names)}")
    return ReproduceArguments(
        table=table,
        world=given.world,
        seeds=parse_seeds(given.seeds),
        taus=parse_taus(given.taus),
        root=data_root(given.root, repository),
        output=typed_folder(given.output, repository / "output"),
        workers=parse_count("--workers", given.workers),
        shots=parse_count("--shots", given.shots),
        epochs=None if given.epochs is None else parse_count("--epochs", given.epochs),
        backbone=given.backbone,
        dry_run=given.dry_run,
        slurm=parse_launcher(given),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Check only: exit status 0 when the command may go on, 2 with one line on stderr when not."""
    return attended(lambda: _check(sys.argv[1:] if argv is None else argv))


def _check(argv: Sequence[str]) -> int:
    try:
        parse_reproduce(argv)
    except CPTError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
