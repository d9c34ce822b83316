"""The range of seeds; standard library only."""

from __future__ import annotations

MAX_SEED = 2**32 - 1
"""Largest seed of a run: the largest one that NumPy's global generator takes."""
