"""PromptSRC."""

from __future__ import annotations

from tests.parity.foreign_cases import Case, Repository, both_sides

CASES = (Case(Repository("CPT_RELEASED_PROMPTSRC"), "PromptSRC", "tuple of 7", both_sides("PROMPTSRC"), whole=True),)
