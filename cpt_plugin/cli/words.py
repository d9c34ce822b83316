"""What words mean on the command line of every command: seeds, counts, folders, errors; standard library only."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

from cpt_plugin._escapes import terminal
from cpt_plugin._paths import resolved
from cpt_plugin._seeds import MAX_SEED
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.methods import parse_tau

CALLED_FROM = "CPT_CALLED_FROM"
"""Environment variable: the folder in which a command was typed."""


COMMANDS = ("run", "reproduce", "results", "figures", "compare", "report", "list", "data", "doctor")
"""The first words of `python -m cpt_plugin` and of `scripts/run.sh`."""


class Parser(argparse.ArgumentParser):
    """Wrong words raise ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help)")


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Seeds from `A,B,...`: whole numbers in [0, 2^32 - 1], none twice; () when not given.

    Raises ConfigError otherwise.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,10}", word) or int(word) > MAX_SEED]
    if wrong:
        raise ConfigError(f"--seeds '{text}': '{wrong[0]}' is no whole number in 0..{MAX_SEED}, e.g. 1,2,3")
    seeds = tuple(int(word) for word in words)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds '{text}' names a seed twice: each may be given once")
    return seeds


def parse_taus(text: str | None) -> tuple[float, ...]:
    """Imbalance ratios from `A,B,...`, each once; () when not given. Raises ConfigError for others."""
    return () if text is None else tuple(dict.fromkeys(map(parse_tau, text.split(","))))


def parse_count(name: str, text: str) -> int:
    """A whole number of at least 1; raises ConfigError, naming the option, for anything else."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ConfigError(f"{name} is '{text}', but must be a whole number of at least 1")
    return int(text)


def data_root(given: str | Path | None, repository: Path) -> Path:
    """Absolute folder of the images: what was given, else $DATA_ROOT, else ``data`` in the repository.

    Raises ConfigError for a file, and for a folder that this process may not read.
    """
    root = typed_folder(given, os.environ.get("DATA_ROOT") or repository / "data")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"the data folder {root} (--root, DATA_ROOT) is a file; give a folder")
    if root.exists() and not os.access(root, os.R_OK | os.X_OK):
        raise ConfigError(f"the data folder {root} (--root, DATA_ROOT) cannot be read: permission denied")
    return root


def typed_folder(given: str | Path | None, default: str | Path) -> Path:
    """Absolute folder; what a person typed counts from where the command was typed."""
    return resolved(given or default, called_from())


def called_from() -> Path:
    """The folder in which the command was typed."""
    return Path(os.environ.get(CALLED_FROM) or Path.cwd())


def report(error: CPTError) -> int:
    """Print an error without a traceback; returns the exit status for wrong input."""
    message = " ".join(str(error).splitlines()) if isinstance(error, ConfigError) else str(error)
    print(f"error: {terminal(message)}", file=sys.stderr)
    return 2
