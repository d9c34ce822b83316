"""The folder of features: what comes back, what is told damaged, and how large it grows."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from cpt_plugin.bounded_folder import cache_folder
from cpt_plugin.feature_store import SUFFIX, FeatureStore, key_of

SHAPE = (5, 3)
BYTES = 5 * 3 * 4 + 128 + 32


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "new", 1e6)
    assert store.get("a", SHAPE) is None
    assert store.put("a", matrix(0))
    found = store.get("a", SHAPE)
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, matrix(0))
    assert store.get("b", SHAPE) is None


def truncated(data: bytes) -> bytes:
    return data[:-7]


def flipped(data: bytes) -> bytes:
    return data[:140] + bytes([data[140] ^ 1]) + data[141:]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda data: b"", lambda data: data + b"x"])
def test_damage_is_told_and_the_entry_is_missing(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path, 1e6)
    store.put("a", matrix(0))
    path = tmp_path / f"a{SUFFIX}"
    path.write_bytes(damage(path.read_bytes()))
    assert store.get("a", SHAPE) is None
    assert str(path) in caplog.text
    store.put("a", matrix(0))
    assert store.get("a", SHAPE) is not None


def test_another_shape_and_infinite_numbers_are_damage_too(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 1e6)
    store.put("a", matrix(0))
    assert store.get("a", (5, 4)) is None
    store.put("b", np.full(SHAPE, np.nan, dtype=np.float32))
    assert store.get("b", SHAPE) is None


def test_the_folder_stays_within_its_bound_and_the_unused_goes_first(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 3 * BYTES)
    for number, key in enumerate("abc"):
        store.put(key, matrix(number))
        os.utime(tmp_path / f"{key}{SUFFIX}", (number, number))
    assert store.get("a", SHAPE) is not None  # now the last one used
    store.put("d", matrix(3))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * BYTES


def test_a_folder_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path, 1e6)
    store.put("a", matrix(0))

    def refuse(*_: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert store.get("a", SHAPE) is not None


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path, BYTES - 1)
    assert not store.put("a", matrix(0))
    assert "FEATURE_CACHE.MAX_GIB" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert not FeatureStore(blocked / "folder", 1e6).put("a", matrix(0))
    assert "cannot be kept" in caplog.text


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / f"x{SUFFIX}.tmp-1", tmp_path / f"y{SUFFIX}.tmp-2"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    FeatureStore(tmp_path, 1e6).put("a", matrix(0))
    assert not old.exists()
    assert young.exists()


def _hammer(folder: Path, seed: int) -> bool:
    store = FeatureStore(folder, 4 * BYTES)
    for turn in range(60):
        key = (turn + seed) % 6
        found = store.get(str(key), SHAPE)
        if found is not None and not np.array_equal(found, matrix(key)):
            return False
        if found is None and not store.put(str(key), matrix(key)):
            return False
    return True


def test_processes_at_once_never_read_anything_else(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert all(pool.starmap(_hammer, [(tmp_path, seed) for seed in range(2)]))


def test_keys_and_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of({"a": 1, "b": [2, "x"]}) == key_of({"b": [2, "x"], "a": 1}) != key_of({"a": 1, "b": [2, "y"]})
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder("features") == Path("/somewhere/cpt-plugin/features")
