"""Validation images that are test images: nothing may be chosen on them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cpt_plugin._hashing import sha256_of
from cpt_plugin._names import some
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.logs import LOGGER

BEST = "best_val"
"""``TEST.FINAL_MODEL`` of a training that ends with the epoch that is best on validation images."""


def chooses_epoch(cfg: Any) -> bool:
    """Whether training evaluates its epochs on validation images, and ends with the best one."""
    return not cfg.TEST.NO_TEST and cfg.TEST.FINAL_MODEL == BEST


def require_validation(val: Sequence[Any], test: Sequence[Any], name: str, reason: str) -> None:
    """Look whether a data set has validation images that are no test images.

    Images are the same where their paths are. Copies and links, by their bytes, are the same as well where they are
    half of the validation images or more; fewer, as some published data sets have, are warned of.

    Args:
        val, test: items of the data set.
        name: of the data set, for messages.
        reason: what needs them.

    Raises:
        ConfigError: there are none, or test images are among them (their number).
    """
    chosen, tested = ([item.impath for item in part] for part in (val, test))
    remedy = "set TEST.FINAL_MODEL last_step and TEST.SPLIT test, so that nothing is chosen on test images"
    if not chosen:
        raise ConfigError(f"{reason} needs validation images, and {name} has none; {remedy}")
    listed = {os.path.abspath(path) for path in tested}
    same = [path for path in chosen if os.path.abspath(path) in listed]
    copies = same or _copies(chosen, tested)
    if same or 2 * len(copies) >= len(chosen):
        raise ConfigError(
            f"{reason} needs validation images, but {len(copies)} of the {len(chosen)} that {name} has are test images "
            f"({some(copies)}), which would choose and be tested on; divide the images otherwise, or {remedy}"
        )
    if copies:
        LOGGER.warning(
            f"{len(copies)} of the {len(chosen)} validation images of {name} are copies of test images: {some(copies)}"
        )


def _copies(val: Sequence[str], test: Sequence[str]) -> list[str]:
    """Validation images whose bytes are those of a test image; only files of equal size are read."""
    tested = list(_sized(test))
    sizes = {size for _, size in tested}
    suspects = [(path, size) for path, size in _sized(val) if size in sizes]
    wanted = {size for _, size in suspects}
    known = {sha256_of(Path(path)) for path, size in tested if size in wanted}
    return [path for path, _ in suspects if sha256_of(Path(path)) in known]


def _sized(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    return ((path, os.stat(path).st_size) for path in paths if os.path.isfile(path))
