"""A bounded folder of feature matrices on disk, each under the hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpt_plugin.atomic import atomic_write

LOG = logging.getLogger("cpt_plugin")
SUFFIX = ".features"
_DIGEST_BYTES = 32
_ABANDONED_SECONDS = 3600.0


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/cpt-plugin/features``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpt-plugin" / "features"


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a matrix depends on; any value that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class FeatureStore:
    """Float matrices by key: NumPy's format followed by the SHA-256 of it, written whole or not at all.

    The folder holds at most ``max_bytes``; the entries that were not used for longest make room. What is damaged is
    told apart by its hash and counts as missing.
    """

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def get(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """The matrix of a key; None, with a warning that names the file if it is damaged, where it must be made."""
        path = self.folder / f"{key}{SUFFIX}"
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
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
        if len(data) > self.max_bytes:
            LOG.warning(
                f"Image features of {len(data) / 2**30:.3g} GiB are not kept: FEATURE_CACHE.MAX_GIB is "
                f"{self.max_bytes / 2**30:g}"
            )
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            atomic_write(self.folder / f"{key}{SUFFIX}", data)
        except OSError as error:
            LOG.warning(f"Image features cannot be kept in {self.folder} ({error}): they are computed in every run")
            return False
        return True

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for longest, and what a killed process left half-written an hour ago or earlier."""
        entries = []
        for path in self.folder.glob(f"*{SUFFIX}*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has removed it
                continue
            if path.suffix == SUFFIX:
                entries.append((status.st_mtime_ns, status.st_size, path))
            elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        used = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if used + needed <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            used -= size
