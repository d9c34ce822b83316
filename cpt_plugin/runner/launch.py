"""Runs a script as ``python script`` would, inside a process that has been prepared for it."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from cpt_plugin.cli.pairs import pairs_anywhere
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.runner.arguments import DASSL_NEEDS, RunnerArguments, fit_own_keys, parse_words

CHECKOUT = Path(__file__).resolve().parents[2]


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
    frozen_text = None if arguments.frozen_text is None else read_features(arguments.frozen_text)
    enter_folder_of(arguments.script)
    _prepare(arguments, frozen_text)
    try:
        with pairs_anywhere():
            runpy.run_path(arguments.script, run_name="__main__")
    except Exception as error:
        ours = own_error(error)
        if ours is not None:
            raise ours from None
        traceback.print_exception(error.with_traceback(_from_script(error.__traceback__, arguments.script)))
        return 1
    return 0


def _prepare(arguments: RunnerArguments, frozen_text: Tensor | None) -> None:
    require_dassl()
    os.environ["CPT_TOOLKIT"] = "dassl"
    from cpt_plugin.runner.session import Session, own_defaults
    from cpt_plugin.toolkit import old_checkpoints
    from cpt_plugin.toolkit.embedded.logs import setup_logger

    sys.argv = [arguments.script, *fit_own_keys(arguments.words, own_defaults())]
    setup_logger()
    old_checkpoints.install()
    Session(arguments.regularizers, frozen_text).install()


def enter_folder_of(script: str) -> None:
    """Make ``sys.path`` what ``python script`` would have.

    The folder of the script stands first, in place of what ``python -m`` put there, and a checkout of this project
    is taken out: its ``trainers`` and ``datasets`` must not stand in for packages of those names.
    """
    folder = str(Path(script).resolve().parent)
    rest = sys.path if sys.flags.safe_path else sys.path[1:]
    sys.path[:] = [folder, *(entry for entry in rest if Path(entry).resolve() != CHECKOUT or not _is_checkout())]


def _is_checkout() -> bool:
    return (CHECKOUT / "trainers").is_dir() and (CHECKOUT / "setup.py").is_file()


def require_dassl() -> None:
    """Raise ConfigError, with how to install it, unless a package ``dassl`` can be found."""
    spec = importlib.util.find_spec("dassl")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "Dassl is not importable: clone https://github.com/KaiyangZhou/Dassl.pytorch (or take the copy that the "
            "repository brings along) and put its folder on PYTHONPATH, or run `pip install -e . "
            f"--no-build-isolation --no-deps` in it; it needs `pip install {DASSL_NEEDS}`"
        )


def read_features(path: Path) -> Tensor:
    """(K, d) frozen text features, in the order of the labels, from a file that ``torch.save(tensor)`` wrote.

    Raises:
        ConfigError: there is no such file, or it holds anything but one tensor.
    """
    try:
        features = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--frozen-text {path} cannot be read ({reason}): save one tensor with torch.save") from error
    if not isinstance(features, Tensor) or features.dim() != 2:
        shape = getattr(features, "shape", None)
        found = type(features).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"
        raise ConfigError(f"--frozen-text {path} holds {found}: save one (K, d) tensor, a row for each class")
    return features


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


def _from_script(trace: TracebackType | None, script: str) -> TracebackType | None:
    """The traceback from the script's first line on, without the runner's frames above it."""
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace
