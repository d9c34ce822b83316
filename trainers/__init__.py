"""Trainers: one prompt learner a file; the file's name is its part in a method's name.

Importing this package registers every prompt learner and its second stage (``CoOp``, ``CoOpDPC``, ...), alone and
with every single part (``CoOpCPT``, ``CoOpDPCLA``, ...), in the toolkit's ``TRAINER_REGISTRY``. To add
one, write ``trainers/<name>.py`` with a class under ``@prompt_learner("<name>")`` and a yaml in
``configs/trainers/<ClassName>/``.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from trainers._parts import check_parts, settings_of
from trainers._registry import PROMPT_LEARNERS, extend_cfg, register_named, register_variants, trainer_name

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")

register_variants()

__all__ = [
    "PROMPT_LEARNERS",
    "check_parts",
    "extend_cfg",
    "register_named",
    "register_variants",
    "settings_of",
    "trainer_name",
]
