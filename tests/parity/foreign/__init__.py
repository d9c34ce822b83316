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
LEFT = {
    "APPLeNet": "has data sets of its own only, and one file of Dassl in place of a whole copy",
    "CasPL, proda": "their code is not published in these repositories",
    "CLIP-Adapter": "publishes one file for the program of CoOp, on text features computed beforehand",
    "MuDPT's MPT": "builds CLIP without the settings that its model needs",
    "Nemesis' PLOTNemesis": "is PLOT, which stands in the table, with the loss of CoOpNemesis",
    "PTNL": "trains on pseudo labels that five other models must have made",
    "PromptLT": "has sizes of one data set written into its model",
    "SpecPL": "needs a downloaded VAE as a teacher",
    "TransAgent": "needs weights of four other vision models in fixed places",
}
"""Repositories that were looked at and are not tried, and why."""
