"""`python -m cpt_plugin` and the console script `cpt-plugin`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cpt_plugin._names import nearest
from cpt_plugin.cli.arguments import parse_arguments, report
from cpt_plugin.errors import ConfigError, CPTError

_PROGRAM = "python -m cpt_plugin"
_USAGE = f"""\
usage: {_PROGRAM} COMMAND ...

Cluster-aware neural-collapse prompt tuning (CPT) for CLIP prompt learners.

commands:
  run METHOD DATASET TAU [options]   train on base classes, test on base and new, print one table
  list                               the methods, data sets and embedded worlds there are

  {_PROGRAM} run --help says more. On a fresh machine, bash scripts/run.sh METHOD DATASET TAU
  also sets up the environment first."""


def _run(words: Sequence[str]) -> int:
    arguments = parse_arguments(words, prog=f"{_PROGRAM} run")
    from cpt_plugin.cli.run import run

    return run(arguments)


def _list(words: Sequence[str]) -> int:
    if words:
        raise ConfigError(f"list takes no further words, but got '{words[0]}'")
    from cpt_plugin.cli.listing import lines

    print("\n".join(lines()))
    return 0


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"run": _run, "list": _list}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status (2, with one line on stderr, for wrong input)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0
    command = _COMMANDS.get(words[0])
    try:
        if command is None:
            raise ConfigError(
                f"unknown command '{words[0]}'; nearest: '{nearest(words[0], _COMMANDS)}'; "
                f"possible: {', '.join(_COMMANDS)} ({_PROGRAM} --help)"
            )
        return command(words[1:])
    except CPTError as error:
        return report(error)
