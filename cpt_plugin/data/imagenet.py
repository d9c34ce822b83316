"""ImageNet's classes: WordNet ids in label order, CLIP's names for them, the subsets of ImageNet-A and -R.

Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cpt_plugin._names import some
from cpt_plugin.errors import DataError

CLASSNAMES_FILE = "classnames.txt"
_TABLE = Path(__file__).resolve().parents[1] / "assets" / "imagenet_classes.json"


def imagenet_classes() -> Mapping[str, str]:
    """The 1,000 names by WordNet id, in label order (the order of the ids).

    Two pairs of classes share a name: "missile" and "sunglasses".
    Source: the names of OpenAI's CLIP (ICML 2021), which CoOp copies to its ``classnames.txt``.
    """
    return MappingProxyType(_table()["names"])


def subset_ids(name: str) -> tuple[str, ...]:
    """The 200 WordNet ids of ``imagenet_a`` or ``imagenet_r`` in their own label order (the order of the ids)."""
    return tuple(_table()[name])


def read_classnames(path: Path) -> dict[str, str]:
    """Names by WordNet id from a file with a line ``n01440764 tench`` for each class, in the order of the ids.

    Raises:
        DataError: the file cannot be read, or a line is no id and name, repeats an id, or has an unknown one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}): restore it, or delete it (the names are built in)") from error
    known, names, wrong = imagenet_classes(), {}, []
    for number, line in enumerate(lines, start=1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        wordnet_id, name = words[0], " ".join(words[1:]).strip()
        if wordnet_id not in known or wordnet_id in names or not name:
            wrong.append(f"line {number}: {line.strip()!r}")
        names[wordnet_id] = name
    if wrong or not names:
        raise DataError(
            f"{path} must hold a line 'WORDNET_ID NAME' once for each ImageNet class, but has {some(wrong)}; "
            "restore it, or delete it (the names are built in)"
        )
    return dict(sorted(names.items()))


@cache
def _table() -> dict[str, Any]:
    return json.loads(_TABLE.read_text(encoding="utf-8"))
