"""Controls: simple things to compare a method with, as parts of its name.

One file each, found by its name as regularizers are. A control with ``trains = False`` acts in evaluation alone: what
it evaluates are the prompts of the same method without it.
"""

from __future__ import annotations

from trainers.controls.base import REGISTRY, Control, register

__all__ = ["REGISTRY", "Control", "available", "build", "names", "register"]

available = REGISTRY.available
build = REGISTRY.build
names = REGISTRY.names

available()
