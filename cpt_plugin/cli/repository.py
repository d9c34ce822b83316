"""The seam to the folders that are run from the repository and never installed."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from cpt_plugin.errors import ConfigError, CPTError

ROOT = Path(__file__).resolve().parents[2]


def load_trainers() -> ModuleType:
    """Import this repository's ``datasets`` and ``trainers``, which register themselves in the toolkit.

    Raises:
        ConfigError: the package is installed without its repository, other packages shadow these names, or one of
            their files cannot be imported (named with its line).
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    for name in ("datasets", "trainers"):
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise ConfigError(f"{_place(error)}: {error}; install that module, or correct the file.") from error
            raise ConfigError(f"{ROOT} has no folder {name}/: run this from a clone of the repository.") from error
        except CPTError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{_place(error)}: {reason}; correct or remove that file.") from error
        if ROOT not in Path(str(module.__file__)).resolve().parents:
            raise ConfigError(f"The name {name!r} is taken by {module.__file__}: run from {ROOT} in a fresh process.")
    return sys.modules["trainers"]


def _place(error: Exception) -> str:
    """The last line of this repository's ``datasets`` or ``trainers`` on the way to an error of their import."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    folders = [ROOT / "datasets", ROOT / "trainers"]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if {*folders} & {*Path(f.filename).parents}]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else str(ROOT)


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


def default_cfg(named: Iterable[str] = ()) -> Any:
    """The toolkit's default configuration with the nodes of all trainers and parts.

    named: parts or their keys (``spread``, ``SPREAD.WEIGHT``); those of other packages are imported for their nodes.
    """
    trainers = load_trainers()
    from cpt_plugin.toolkit import get_cfg_default

    cfg = get_cfg_default()
    trainers.extend_cfg(cfg, [name.partition(".")[0].lower() for name in named])
    return cfg
