"""What is on disk against what the manifest says: classes, their names, sizes of the parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cpt_plugin.data.manifest import Manifest
from cpt_plugin.data.published import differences
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
