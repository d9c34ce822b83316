"""A bounded folder of feature matrices on disk, each under the hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpt_plugin.atomic import atomic_write
from cpt_plugin.bounded_folder import BoundedFolder

LOG = logging.getLogger("cpt_plugin")
SUFFIX = ".features"
_DIGEST_BYTES = 32


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a matrix depends on; any value that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class FeatureStore:
    """Float matrices by key: NumPy's format followed by the SHA-256 of it, written whole or not at all.

    See :class:`BoundedFolder` for the bound. What is damaged is told apart by its hash and counts as missing.
    """

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self._folder = BoundedFolder(folder, SUFFIX, max_bytes)

    def get(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """The matrix of a key; None, with a warning that names the file if it is damaged, where it must be made."""
        path = self._folder.path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        self._folder.touch(path)
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() == digest:
            features = np.load(io.BytesIO(body), allow_pickle=False)
            if features.shape == shape and np.isfinite(features).all():
                return features
        LOG.warning(f"{path} is damaged: its features are computed again")
        return None

    def put(self, key: str, features: np.ndarray) -> bool:
        """Keep a matrix; False, with a warning, where that cannot be: larger than the bound, or no room to write."""
        buffer = io.BytesIO()
        np.save(buffer, features, allow_pickle=False)
        data = buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest()
        path, bound = self._folder.path(key), self._folder.max_bytes
        if len(data) > bound:
            LOG.warning(
                f"Image features of {len(data) / 2**30:.3g} GiB are not kept: FEATURE_CACHE.MAX_GIB is "
                f"{bound / 2**30:g}"
            )
            return False
        try:
            self._folder.make_room(len(data), path)
            atomic_write(path, data)
        except OSError as error:
            LOG.warning(f"Image features cannot be kept in {path.parent} ({error}): they are computed in every run")
            return False
        return True
