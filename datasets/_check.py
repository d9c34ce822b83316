"""What is on disk against what the manifest says: classes, their names, sizes of the parts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cpt_plugin._names import some
from cpt_plugin.data.manifest import Manifest
from cpt_plugin.data.published import differences, shortfall
from cpt_plugin.data.split_file import PARTS
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.data import class_names

LOG = logging.getLogger("cpt_plugin")
NEEDED = ("train", "test")
"""The parts in which every class needs images."""


def published_label(
    manifest: Manifest, parts: Sequence[Sequence[Any]], cfg: Any, label: str = "", by_part: bool = True
) -> str:
    """Look at the whole parts of a data set (train, val, test, before any sampling) as every loader does.

    Args:
        manifest: what is published.
        parts: the items.
        cfg: DATASET.CHECK_COUNTS says whether verified figures must hold.
        label: what tables call the division, "" for the published one.
        by_part: False where the images were divided otherwise than as published.

    Returns:
        The label, with "incomplete" where classes or images are fewer than published; tables never mix the two.

    Raises:
        DataError: a part or class has no images, or a verified figure or name does not hold.
    """
    pairs = [{(item.label, item.classname) for item in part} for part in parts]
    refuse_empty(pairs, manifest.registered, ("test",) if manifest.test_only else NEEDED)
    if cfg.DATASET.CHECK_COUNTS:
        check_published(manifest, parts, sizes=by_part)
    classes = len(set().union(*pairs))
    lacking = shortfall(manifest, classes, [len(part) for part in parts], by_part)
    if not lacking:
        return label
    LOG.warning(
        f"{manifest.registered} is incomplete ({'; '.join(lacking)}): do not compare with published results; every "
        "record and table says 'incomplete'"
    )
    return ", ".join(filter(None, [label, "incomplete"]))


def refuse_empty(
    parts: Sequence[Iterable[tuple[int, str]]], source: str | Path, needed: Sequence[str] = NEEDED
) -> None:
    """Raise DataError for a part without any image, or a class without any in a part that every class needs.

    Args:
        parts: label and class name of each image of train, val and test.
        source: what to name in messages.
        needed: the parts that every class needs.
    """
    found = dict(zip(PARTS, map(set, parts), strict=True))
    everything = set().union(*found.values())
    for part in needed:
        if not found[part]:
            raise DataError(f"{source} has no {part} images: get its files again, or correct its lists")
        absent = [repr(name) for _, name in sorted(everything - found[part])]
        if absent:
            raise DataError(
                f"{source} has no {part} image of {some(absent)}: every class needs some; complete the class, or leave "
                "it out of all parts"
            )


def check_published(manifest: Manifest, parts: Sequence[Sequence[Any]], sizes: bool = True) -> None:
    """Compare whole parts (train, val, test, before any sampling) with the manifest; ``sizes`` False: names only.

    Differences from unverified figures give one warning.

    Raises:
        DataError: a verified figure or name does not hold.
    """
    found = list(class_names(item for part in parts for item in part).values())
    wrong, doubtful = differences(manifest, found, [len(part) for part in parts] if sizes else ())
    if wrong:
        raise DataError(
            f"{manifest.registered} is not the published data set: {'; '.join([*wrong, *doubtful])}. Get the split "
            "file and the images again; for a deliberate subset set DATASET.CHECK_COUNTS False"
        )
    if doubtful:
        LOG.warning(
            f"{manifest.registered}: {'; '.join(doubtful)}; these figures are not verified "
            f"({manifest.counts.source or 'no source'}), so this may be right"
        )
