"""Drawing seeds: four ranges that share no value, so no image is drawn for two purposes.

torch's CPU generator keeps only the low 32 bits of a seed, therefore the ranges tile [0, 2^32):

=========  ==================
pretrain   [0, 2^30)
train      [2^30, 2 * 2^30)
val        [2 * 2^30, 3 * 2^30)
test       [3 * 2^30, 4 * 2^30)
=========  ==================
"""

from __future__ import annotations

import hashlib

PURPOSES: tuple[str, ...] = ("pretrain", "train", "val", "test")
SEED_RANGES: dict[str, range] = {name: range(i << 30, (i + 1) << 30) for i, name in enumerate(PURPOSES)}


def drawing_seed(purpose: str, *key: str | int) -> int:
    """Return the seed that ``key`` (a world, a step, ...) has within the range of ``purpose``.

    Raises:
        KeyError: ``purpose`` is not one of :data:`PURPOSES`.
    """
    seeds = SEED_RANGES[purpose]
    digest = hashlib.sha256(repr(key).encode()).digest()
    return seeds[int.from_bytes(digest[:8], "big") % len(seeds)]
