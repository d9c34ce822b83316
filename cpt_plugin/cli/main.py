"""`python -m cpt_plugin` and the console script `cpt-plugin`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cpt_plugin import __version__
from cpt_plugin._names import nearest
from cpt_plugin.cli.arguments import parse_arguments
from cpt_plugin.cli.console import attended
from cpt_plugin.cli.materials import Lacking, provide
from cpt_plugin.cli.packages import not_installed
from cpt_plugin.cli.reproduce_arguments import parse_reproduce
from cpt_plugin.cli.words import COMMANDS, Parser, report
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.runner.arguments import is_script
from cpt_plugin.runner.options import options_help

_PROGRAM = "python -m cpt_plugin"
_USAGE = f"""\
usage: {_PROGRAM} COMMAND ...
       {_PROGRAM} [options] SCRIPT ...

Cluster-aware neural-collapse prompt tuning (CPT) for CLIP prompt learners.

commands:
  run METHOD DATASET TAU [options]   train on base classes, test on base and new, print one table
  reproduce TABLE [options]          do the runs that a table of configs/tables needs, and print it
  results table|figures|render|export|import
                                     tables and figures from records, records as JSON lines, others' logs
  figures [FOLDER]                   the same as results figures
  compare A B [FOLDER] [options]     is A better than B over data sets, and what may be claimed
  report FOLDER [-o FILE]            one HTML page about an output folder
  list                               the methods, data sets and embedded worlds there are
  data list | get NAME | verify NAME data sets of photographs: what is there, get it, check it
  doctor                             what is wrong with this machine, and how to mend it

  {_PROGRAM} help COMMAND (or COMMAND --help) says more. On a fresh machine, bash scripts/run.sh METHOD DATASET TAU
  also sets up the environment first.

somebody else's training script on Dassl (CoOp, MaPLe, PromptSRC, ...), none of its files edited:
  {_PROGRAM} train.py <its usual arguments> CPT.WEIGHT_ETF 0.25 DATASET.IMBALANCE_TAU 0.25

options, before the script:
{options_help()}

  Keys like CPT.WEIGHT_ETF stand among the script's own KEY VALUE pairs, or in its yaml files."""


def _run(words: Sequence[str]) -> int:
    missing: list[Lacking] = []
    arguments = parse_arguments(words, prog=f"{_PROGRAM} run", supply=missing.append)
    from cpt_plugin.cli.run import run

    def supply() -> None:
        for one in missing:
            provide(one)

    return run(arguments, supply=supply)


def _list(words: Sequence[str]) -> int:
    description = "The methods, data sets and embedded worlds there are; it takes no further words."
    Parser(prog=f"{_PROGRAM} list", description=description).parse_args(words)
    from cpt_plugin.cli.listing import lines

    print("\n".join(lines()))
    return 0


def _reproduce(words: Sequence[str]) -> int:
    arguments = parse_reproduce(words, prog=f"{_PROGRAM} reproduce")
    from cpt_plugin.cli.reproduce import reproduce

    return reproduce(arguments)


def _results(words: Sequence[str]) -> int:
    from cpt_plugin.cli.results import main as results

    return results(words)


def _figures(words: Sequence[str]) -> int:
    return _results(["figures", *words])


def _data(words: Sequence[str]) -> int:
    from cpt_plugin.cli.data import run

    return run(words)


def _doctor(words: Sequence[str]) -> int:
    from cpt_plugin.cli.doctor import doctor

    return doctor(words, prog=f"{_PROGRAM} doctor")


def _compare(words: Sequence[str]) -> int:
    from cpt_plugin.cli.compare import main as compare

    return compare(words)


def _report(words: Sequence[str]) -> int:
    from cpt_plugin.cli.report import main as report_page

    return report_page(words)


def _run_script(words: Sequence[str]) -> int:
    from cpt_plugin.runner.launch import launch

    return launch(words)


_DO = (_run, _reproduce, _results, _figures, _compare, _report, _list, _data, _doctor)
_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = dict(zip(COMMANDS, _DO, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status (2, with one line on stderr, for wrong input)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    somebody_elses = bool(words) and words[0] not in _COMMANDS and is_script(words[0])
    return attended(lambda: _carry_out(words), controls=somebody_elses)


def _carry_out(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0
    if words[0] == "--version":
        print(f"cpt-plugin {__version__}")
        return 0
    command = _COMMANDS.get(words[0])
    try:
        if command is None and is_script(words[0]):
            return _run_script(words)
        if command is None:
            raise ConfigError(
                f"unknown command '{words[0]}'; nearest: '{nearest(words[0], _COMMANDS)}'; "
                f"possible: {', '.join(_COMMANDS)}, or a training script ({_PROGRAM} --help)"
            )
        return command(words[1:])
    except CPTError as error:
        return report(error)
    except ModuleNotFoundError as error:
        lacking = not_installed(error)
        if lacking is None:
            raise
        return report(lacking)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
