"""The released trainers that the hook is tried on, one file a repository: each has ``CASES``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.parity.foreign_cases import Case

CASES: tuple[Case, ...] = tuple(
    case
    for module in sorted(iter_modules(__path__), key=lambda module: module.name)
    for case in import_module(f"{__name__}.{module.name}").CASES
)
