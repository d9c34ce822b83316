"""Runs a script as ``python script`` would, inside a process that has been prepared for it."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cpt_plugin.cli.pairs import pairs_anywhere
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.runner.arguments import DASSL_NEEDS, RunnerArguments, fit_own_keys, parse_words
from cpt_plugin.runner.functions import StepFunction
from cpt_plugin.runner.options import OPTIONS, given_behind


def launch(words: Sequence[str]) -> int:
    """Run somebody's training script with regularizers; returns the exit status.

    words: the runner's options, the script, and the script's own words.

    Of the script's own failures the exit status is 1 and the traceback is that of ``python script``; its SystemExit
    passes through.

    Raises:
        CPTError: wrong input, an absent Dassl, a trainer that cannot be regularized, also where the script has
            replaced the error by one of its own.
    """
    arguments = parse_words(words)
    enter_folder_of(arguments.script)
    given = _prepare(arguments)
    try:
        with pairs_anywhere():
            runpy.run_path(arguments.script, run_name="__main__")
    except SystemExit as stopped:
        if stopped.code == 2 and (option := given_behind(arguments.words)):
            print(f"note: {option} is an option of the runner: give it before {arguments.script}", file=sys.stderr)
        raise
    except Exception as error:
        ours = own_error(error)
        if ours is not None:
            raise type(ours)(in_words_of_the_runner(str(ours), given)) from None
        traceback.print_exception(error.with_traceback(_from_script(error.__traceback__, arguments.script)))
        return 1
    return 0


def _prepare(arguments: RunnerArguments) -> dict[str, Any]:
    """Get the process ready for the script; returns the arguments of CPTHook."""
    require_dassl()
    os.environ["CPT_TOOLKIT"] = "dassl"
    from cpt_plugin.runner.session import Session, own_defaults
    from cpt_plugin.toolkit import old_checkpoints
    from cpt_plugin.toolkit.embedded.logs import setup_logger

    sys.argv = [arguments.script, *fit_own_keys(arguments.words, own_defaults())]
    setup_logger()
    old_checkpoints.install()
    given = arguments.hook_arguments()
    Session(arguments.regularizers, given).install()
    return given


def enter_folder_of(script: str) -> None:
    """Make ``sys.path`` what ``python script`` would have.

    The folder of the script stands first, in place of what ``python -m`` put there. Every checkout of this project is
    taken out: its ``trainers`` and ``datasets`` must not stand in for packages of those names, which may lie further
    behind or be folders without ``__init__.py``. This package itself stays importable by its own ``__path__``.
    """
    folder = str(Path(script).resolve().parent)
    rest = sys.path if sys.flags.safe_path else sys.path[1:]
    sys.path[:] = [folder, *(entry for entry in rest if not _is_checkout(Path(entry)))]


def _is_checkout(folder: Path) -> bool:
    """Whether ``cpt_plugin`` stands there beside the ``trainers`` of this project, not installed among others."""
    both = all((folder / name).is_dir() for name in ("cpt_plugin", "trainers"))
    return both and not any(folder.glob("cpt_plugin-*.dist-info"))


def require_dassl() -> None:
    """Raise ConfigError, with how to install it, unless a package ``dassl`` can be found."""
    spec = importlib.util.find_spec("dassl")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "Dassl is not importable: clone https://github.com/KaiyangZhou/Dassl.pytorch (or take the copy that the "
            "repository brings along) and put its folder on PYTHONPATH, or run `pip install -e . "
            f"--no-build-isolation --no-deps` in it; it needs `pip install {DASSL_NEEDS}`"
        )


def own_error(error: BaseException) -> CPTError | None:
    """The error of this package behind an exception, if there is one: itself, its cause or its context."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, CPTError):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def in_words_of_the_runner(message: str, given: Mapping[str, Any]) -> str:
    """A message of the hook with what it says about arguments of CPTHook told in options of the runner.

    given: the arguments of this run. Of a function among them, file and line are named; of an argument that was not
    given, the option, where the message does not do so itself.
    """
    notes = []
    for option in OPTIONS.values():
        if not option.argument or not re.search(rf"\b{option.argument}=", message):
            continue
        if isinstance(given.get(option.argument), StepFunction):
            notes.append(f"{given[option.argument]!r} was used")
        elif option.argument not in given and option.name not in message:
            notes.append(f"in the runner {option.name} {option.metavar}")
    return f"{message} ({'; '.join(notes)})" if notes else message


def _from_script(trace: TracebackType | None, script: str) -> TracebackType | None:
    """The traceback from the script's first line on, without the runner's frames above it."""
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace
