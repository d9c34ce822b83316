"""Modules from outside in place of those that a released repository lacks."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


def stub(name: str, **values: Any) -> None:
    """Put a module of these values in place of one that cannot be imported or is not needed."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__all__ = []  # type: ignore[attr-defined]
    vars(module).update(values)
    sys.modules[name] = module


def stub_templates(code: Path) -> None:
    """``trainers.imagenet_templates``, which several repositories import and some lack."""
    if not (code / "trainers" / "imagenet_templates.py").exists():
        templates = ["a photo of a {}.", "a {}."]
        stub("trainers.imagenet_templates", IMAGENET_TEMPLATES=templates, IMAGENET_TEMPLATES_SELECT=templates)
