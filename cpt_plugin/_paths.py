"""Paths as people type them; standard library only."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from cpt_plugin.errors import ConfigError


def run_as_module(path: Path, name: str) -> ModuleType | None:
    """Run a Python file as the module ``name``; None where it is no such file. Its errors come out as they are."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def from_home(path: str | Path) -> Path:
    """A path whose ``~`` is replaced by the home folder; unchanged where the system knows no such user."""
    return Path(os.path.expanduser(path))


def resolved(path: str | Path, base: Path) -> Path:
    """Absolute path, links followed; a relative one counts from ``base``.

    Raises:
        ConfigError: no file can be called that: it is too long, a circle of links, or behind a locked folder.
    """
    try:
        absolute = (base / from_home(path)).resolve()
        absolute.exists()
    except (OSError, RuntimeError, ValueError) as error:
        shown = str(path) if len(str(path)) < 100 else f"{str(path)[:100]}..."
        raise ConfigError(f"'{shown}' is no path: {getattr(error, 'strerror', None) or error}") from error
    return absolute
