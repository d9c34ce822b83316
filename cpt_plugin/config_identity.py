"""When are two configurations the same run? Flattening, hashing and comparing; standard library only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

NEUTRAL_KEYS = frozenset(
    {
        "DATALOADER.NUM_WORKERS",
        "DATASET.CHECK_COUNTS",
        "DATASET.CLASS_NAMES",
        "DATASET.ROOT",
        "FEATURE_CACHE.DIR",
        "FEATURE_CACHE.MAX_GIB",
        "IMAGE_CACHE.DIR",
        "IMAGE_CACHE.ENABLED",
        "IMAGE_CACHE.MAX_GIB",
        "MODEL.BACKBONE.DOWNLOAD",
        "MODEL.BACKBONE.TRUST",
        "MODEL.TEXT_MEMORY_GIB",
        "OUTPUT_DIR",
        "RESUME",
        "TRAIN.CHECKPOINT_FREQ",
        "TRAIN.CHECKPOINT_SECONDS",
        "TRAIN.GRADIENT_NORMS",
        "TRAIN.PRINT_FREQ",
        "TRAINER.DPC.STAGE_ONE",
        "TRAINER.DPC.STAGE_ONE_EPOCH",
        "VERBOSE",
    }
)
"""Keys that say where, how fast or how talkatively a run works, not what prompts or accuracies come out.

What DPC finds in the folder of its first stage is told by a hash, and the names in DATASET.CLASS_NAMES by that of the
split.
"""
NAMED_KEYS = frozenset({"DATASET.CLASS_NAMES"})
"""Neutral keys whose files hold what can change a result: a variant is named after these files."""
_LONGEST_NAME = 120
_EXACT = (str, int, bool)
"""Equal values of these types look alike as JSON: two zeros of another sign, or 1 and 1.0, do not."""


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested configuration (a yacs node, a dict) as ``{"OPTIM.LR": 0.002, ...}``; a flat one stays as it is."""
    return dict(_leaves(config))


def hashed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flattened keys that can change a result, sorted, tuples as lists: what JSON gives back unchanged."""
    return json.loads(json.dumps(_kept(config), sort_keys=True))


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of :func:`hashed_part`."""
    text = json.dumps(_kept(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(
    config_a: Mapping[str, Any], config_b: Mapping[str, Any], ignore: Collection[str] = NEUTRAL_KEYS
) -> list[str]:
    """Lines ``KEY: a != b`` for every key of two flat configurations that differs, in key order."""
    missing = object()

    def shown(value: object) -> str:
        return "(not set)" if value is missing else json.dumps(value)

    lines = []
    for key in sorted({*config_a, *config_b} - {*ignore}):
        values = config_a.get(key, missing), config_b.get(key, missing)
        if type(values[0]) is type(values[1]) in _EXACT and values[0] == values[1]:
            continue
        a, b = map(shown, values)
        if a != b:
            lines.append(f"{key}: {a} != {b}")
    return lines


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _leaves(config) if key not in NEUTRAL_KEYS}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def variant_name(options: Mapping[str, Any]) -> str:
    """``KEY=VALUE,...`` in the given order as a folder's name, files without their folders; "" for no options."""
    shown = {key: Path(value).name if key in NAMED_KEYS else _shortest(value) for key, value in options.items()}
    text = re.sub(r"[^\w.,=+-]", "_", ",".join(f"{key}={value}" for key, value in shown.items()))
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[: _LONGEST_NAME - 13]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _shortest(value: Any) -> str:
    """A number as ``%g`` writes it, so that 0 and 0.0 are one name; anything else as a command line says it."""
    try:
        return str(value) if isinstance(value, bool) else f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)
