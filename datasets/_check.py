"""What is on disk against what the manifest says: classes, their names, sizes of the parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cpt_plugin.data.manifest import Manifest
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.data import class_names

LOG = logging.getLogger("cpt_plugin")


def check_published(manifest: Manifest, parts: Sequence[Sequence[Any]], sizes: bool = True) -> None:
    """Compare whole parts (train, val, test, before any sampling) with the manifest; ``sizes`` False: names only.

    Differences from unverified figures give one warning.

    Raises:
        DataError: a verified figure or name does not hold.
    """
    found = list(class_names(item for part in parts for item in part).values())
    counts, names = manifest.counts, manifest.class_names
    wrong: list[str] = []
    doubtful: list[str] = []
    for line in _name_differences(found, names.names):
        (wrong if names.verified else doubtful).append(line)
    figures = [("classes", len(found), counts.classes)]
    if sizes:
        published = (counts.train, counts.val, counts.test)
        figures += [
            (f"{key} images", len(part), number)
            for key, part, number in zip(("train", "val", "test"), parts, published, strict=True)
            if number is not None
        ]
    for what, is_there, should in figures:
        if is_there != should:
            more = "more" if is_there > should else "fewer"
            line = f"{is_there} {what}, {abs(is_there - should)} {more} than {should}"
            (wrong if counts.verified else doubtful).append(line)
    if wrong:
        raise DataError(
            f"{manifest.registered} is not the published data set: {'; '.join([*wrong, *doubtful])}. Get the split "
            "file and the images again; for a deliberate subset set DATASET.CHECK_COUNTS False"
        )
    if doubtful:
        LOG.warning(
            f"{manifest.registered}: {'; '.join(doubtful)}; these figures are not verified "
            f"({counts.source or 'no source'}), so this may be right"
        )


def _name_differences(found: Sequence[str], published: Sequence[str]) -> list[str]:
    """At most one line; nothing where no names are published."""
    if not published or list(found) == list(published):
        return []
    absent = [name for name in published if name not in set(found)]
    strange = [name for name in found if name not in set(published)]
    if not absent and not strange:
        label = next((i for i, pair in enumerate(zip(found, published, strict=False)) if pair[0] != pair[1]), None)
        if label is None:  # a second class of a known name is missing at the end, which the number of classes tells
            return []
        return [f"classes in another order, from label {label} on ({found[label]!r}, not {published[label]!r})"]
    lines = [f"{len(names)} {kind} ({_some(names)})" for kind, names in
             (("class names missing", absent), ("unknown class names", strange)) if names]  # fmt: skip
    return [", ".join(lines)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
