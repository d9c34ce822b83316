"""Records of older schemas in the form of today's; what is not as they had it is left for the decoder to name."""

from __future__ import annotations

import math
from typing import Any

from cpt_plugin._schema import SchemaError
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import ConfigError
from cpt_plugin.long_tail import class_ranks, shot_counts
from cpt_plugin.methods import is_embedded
from cpt_plugin.protocols import BASE_TO_NEW, DATASETS_11, in_order
from cpt_plugin.results.groups import FEW_SHOT_BANDS

SCHEMA = 4
BY_SCHEDULE = "schedule"
FROM_DATA = "data"
DERIVED = "derived"
COUNTS_FROM = (FROM_DATA, DERIVED, BY_SCHEDULE)
"""Where a record's training images by class come from: read when it was made; worked out afterwards from the
schedule, with certainty, as every class of the data set has at least as many images as it can ask for; or without."""
_FEWEST_PUBLISHED = 16
"""Training images that every class of the eleven data sets, divided as published, and of the drawn worlds has at least
(the smallest: 16 of a class of Caltech101, counted in the published split)."""


def converted(plain: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a record of schema 2 or 3 as schema 4 has them; those of other schemas as they are.

    Raises:
        SchemaError: it says 2, but lacks what records of schema 2 had.
    """
    if plain.get("schema") == 2:
        plain = _from_v2(plain)
    return _from_v3(plain) if plain.get("schema") == 3 else plain


def _from_v2(plain: dict[str, Any]) -> dict[str, Any]:
    parts = [plain.get(key) for key in ("accuracy", "per_class", "split_hash")]
    if not all(isinstance(part, dict) and {"base", "new"} <= part.keys() for part in parts):
        raise SchemaError("schema", "says 2, but accuracy, per_class or split_hash of base and new is missing")
    accuracy, per_class, split_hash = parts
    evaluations = {
        name: {
            "dataset": plain.get("dataset"),
            "classes": name,
            "accuracy": accuracy[name],  # type: ignore[index]
            "per_class": per_class[name],  # type: ignore[index]
            "split_hash": split_hash[name],  # type: ignore[index]
        }
        for name in ("base", "new")
    }
    kept = {key: value for key, value in plain.items() if key not in ("accuracy", "per_class", "split_hash")}
    return kept | {"schema": 3, "variant": "", "evaluations": evaluations}


def _from_v3(plain: dict[str, Any]) -> dict[str, Any]:
    try:
        counts = _scheduled(plain)
        derived = _is_certain(plain, counts)
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        counts, derived = [], False
    added = {
        "class_counts": counts,
        "counts_from": DERIVED if derived else BY_SCHEDULE,
        "bands": list(FEW_SHOT_BANDS),
        "selection": "",
        "parts_without_gradient": [],
    }
    return plain | added | {"schema": SCHEMA}


def _scheduled(plain: dict[str, Any]) -> list[int]:
    """Training images by label that the schedule asks for."""
    num_classes, shots = len(_trained(plain)["per_class"]), plain["shots"]
    if plain["tau"] == 1:
        return [shots] * num_classes
    by_rank = shot_counts(num_classes, plain["tau"], plain["config"].get("DATASET.MAX_PER_CLASS", 16))
    return [min(shots, by_rank[rank]) for rank in class_ranks(num_classes, plain["class_order"], plain["seed"])]


def _is_certain(plain: dict[str, Any], counts: list[int]) -> bool:
    """Whether the data cannot have been otherwise than scheduled; an incomplete data set lacks test images as well."""
    name = plain["dataset"]
    if not is_embedded(name):
        own = plain["evaluations"].values() if plain["protocol"] == BASE_TO_NEW else [_trained(plain)]
        tested = sum(total for evaluation in own for _, _, total in evaluation["per_class"])
        if name not in DATASETS_11 or tested != manifest_of(name).counts.test:
            return False
    asked = 1 <= plain["shots"] <= _FEWEST_PUBLISHED
    return asked and math.isclose(min(counts) / max(counts), plain["realized_tau"])


def _trained(plain: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of the classes trained on."""
    evaluations: dict[str, dict[str, Any]] = plain["evaluations"]
    return evaluations[in_order(plain["protocol"], plain["dataset"], evaluations)[0]]
