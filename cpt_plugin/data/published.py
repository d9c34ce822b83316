"""Classes, names and sizes of a data set against what its manifest says; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cpt_plugin.data.manifest import Counts, Manifest
from cpt_plugin.data.split_file import PARTS


class Differences(NamedTuple):
    """What differs from verified figures and names, and what from unverified ones; a phrase each."""

    wrong: list[str]
    doubtful: list[str]


def differences(manifest: Manifest, names: Sequence[str], sizes: Sequence[int] = ()) -> Differences:
    """Compare with the manifest.

    Args:
        manifest: what is published.
        names: class names by label.
        sizes: images in train, val and test; none: names and number of classes only.
    """
    counts = manifest.counts
    found = Differences([], [])
    kind = found.wrong if manifest.class_names.verified else found.doubtful
    kind += _name_differences(names, manifest.class_names.names)
    for what, is_there, should in _figures(counts, len(names), sizes):
        if is_there != should:
            more = "more" if is_there > should else "fewer"
            line = f"{is_there} {what}, {abs(is_there - should)} {more} than {should}"
            (found.wrong if counts.verified else found.doubtful).append(line)
    return found


def shortfall(manifest: Manifest, classes: int, sizes: Sequence[int], by_part: bool = True) -> list[str]:
    """What is fewer than published, whether the figure was verified or not; a phrase each, none for a whole data set.

    Args:
        manifest: what is published.
        classes: number of classes.
        sizes: images in train, val and test.
        by_part: False where the images were divided otherwise, so that only their total can be compared.
    """
    counts = manifest.counts
    figures = _figures(counts, classes, sizes if by_part else ())
    if not by_part:
        published = (counts.train, counts.val, counts.test)
        figures.append(("images", sum(sizes), sum(number or 0 for number in published)))
    return [f"{there:,} of {should:,} {what}" for what, there, should in figures if there < should]


def _figures(counts: Counts, classes: int, sizes: Sequence[int]) -> list[tuple[str, int, int]]:
    """Of the classes and, where sizes are given, of each part: what it is, number here, number published."""
    published = (counts.train, counts.val, counts.test)
    parts = zip(PARTS, sizes, published, strict=True) if sizes else ()
    images = [(f"{part} images", here, number) for part, here, number in parts if number is not None]
    return [("classes", classes, counts.classes), *images]


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
