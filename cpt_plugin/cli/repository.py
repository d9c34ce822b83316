"""The seam to the folders that are run from the repository and never installed."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from cpt_plugin.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def load_trainers() -> ModuleType:
    """Import this repository's ``datasets`` and ``trainers``, which register themselves in the toolkit.

    Raises:
        ConfigError: the package is installed without its repository, or other packages shadow these names.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    for name in ("datasets", "trainers"):
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ConfigError(f"{ROOT} has no folder {name}/: run this from a clone of the repository.") from error
        if ROOT not in Path(str(module.__file__)).resolve().parents:
            raise ConfigError(f"The name {name!r} is taken by {module.__file__}: run from {ROOT} in a fresh process.")
    return sys.modules["trainers"]


def config_file(kind: str, *parts: str) -> Path:
    """Path of ``configs/<kind>/<parts>.yaml``.

    Raises:
        ConfigError: there is none; names those that are there.
    """
    path = ROOT.joinpath("configs", kind, *parts).with_suffix(".yaml")
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"No configuration {path.relative_to(ROOT)}; there is: {present}.")
    return path


def default_cfg() -> Any:
    """The toolkit's default configuration with the nodes of all trainers and regularizers."""
    trainers = load_trainers()
    from cpt_plugin.toolkit import get_cfg_default

    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    return cfg
