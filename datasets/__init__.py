"""Data sets of this repository (run from here, never installed); importing it registers them all."""

from __future__ import annotations

import pkgutil
from importlib import import_module

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_") and not _module.ispkg:
        import_module(f"{__name__}.{_module.name}")
