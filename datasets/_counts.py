"""The figures of a data set that was read, held against those of its manifest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cpt_plugin.data.manifest import Manifest
from cpt_plugin.errors import DataError

_LOG = logging.getLogger("cpt_plugin")


def check_manifest(manifest: Manifest, train: Sequence[Any], val: Sequence[Any], test: Sequence[Any]) -> None:
    """Compare classes, class names and images of each part, before any of them is drawn or left out.

    A figure that the manifest does not know is not checked. What differs from one that is not verified is logged.

    Raises:
        DataError: what differs from verified figures or names.
    """
    names = {item.label: item.classname for part in (train, val, test) for item in part}
    found = {"classes": len(names), "train": len(train), "val": len(val), "test": len(test)}
    counts, wanted = manifest.counts, manifest.class_names
    wrong = [
        f"{found[what]:,} {what} ({known:,} expected)"
        for what in found
        if (known := getattr(counts, what)) is not None and known != found[what]
    ]
    renamed = [
        f"label {label} is {name!r} ({wanted.names[label]!r} expected)"
        for label, name in sorted(names.items())
        if wanted.names and not (label < len(wanted.names) and wanted.names[label] == name)
    ]
    for verified, differing, source in (
        (counts.verified, wrong, counts.source), (wanted.verified, renamed[:3], wanted.source),
    ):  # fmt: skip
        if not differing:
            continue
        text = f"{manifest.registered} has {', '.join(differing)}; expected by {source or 'its manifest'}"
        if verified:
            raise DataError(f"{text}: the data folder is incomplete or of another version; unpack it again")
        _LOG.warning(f"{text} (a figure that is not verified)")
