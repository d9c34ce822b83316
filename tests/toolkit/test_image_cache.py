"""Decoded images on disk: the same bits as without, for any number of workers; bounded; damage is told and undone."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import embedded as engine
from cpt_plugin.toolkit.embedded import image_cache, loader
from cpt_plugin.toolkit.embedded.image_cache import SUFFIX, ImageCache
from cpt_plugin.toolkit.embedded.loader import batches, release_workers
from tests.toolkit.small import Killed, SmallTrainer, fingerprint, small_cfg

FORMATS = {"L": "png", "RGB": "jpg", "P": "gif", "RGBA": "png", "CMYK": "jpg"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of several sizes and color modes, in the places of the small data set."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1), ("test", 2)):
        (tmp_path / "data" / "small" / part).mkdir(parents=True)
        for label, name in enumerate(("ant", "bee", "cat", "dog")):
            for number in range(count):
                height, width = generator.integers(9, 20, 2)
                pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
                mode = list(FORMATS)[(label + number) % len(FORMATS)]
                path = tmp_path / "data" / "small" / part / f"{name}_{number}.png"
                Image.fromarray(pixels).convert(mode).save(path, {"jpg": "JPEG"}.get(FORMATS[mode], FORMATS[mode]))
    return tmp_path / "data"


def manager(root: Path, output: Path, *options: Any, cache: Path | None = None) -> Any:
    on = ("IMAGE_CACHE.ENABLED", True, "IMAGE_CACHE.DIR", str(cache)) if cache else ()
    return engine.DataManager(small_cfg(root, output, *on, *options))


def bits(found: Any, epochs: tuple[int, ...] = (0, 1)) -> list[Any]:
    seen = [
        (batch["index"].tolist(), batch["img"].numpy().tobytes())
        for data_loader, times in ((found.train_loader_x, epochs), (found.test_loader, (0,)))
        for epoch in times
        for batch in batches(data_loader, epoch)
    ]
    release_workers(found.train_loader_x)
    return seen


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with the path of every image that this process decodes."""
    seen: list[str] = []
    read = loader.read_image
    monkeypatch.setattr(loader, "read_image", lambda path, upright: seen.append(path) or read(path, upright))
    return seen


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_without_the_cache(root: Path, tmp_path: Path, workers: int) -> None:
    plain = bits(manager(root, tmp_path))
    options = ("DATALOADER.NUM_WORKERS", workers)
    assert bits(manager(root, tmp_path, *options)) == plain
    for _ in ("made", "read"):
        assert bits(manager(root, tmp_path, *options, cache=tmp_path / "cache")) == plain
    assert len(list((tmp_path / "cache").glob(f"*{SUFFIX}"))) == len(list((tmp_path / "cache").iterdir())) == 2


def test_every_image_is_decoded_once_for_all_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = decoded(monkeypatch)
    bits(manager(root, tmp_path, cache=tmp_path / "cache"), epochs=(0, 1, 2))
    assert len(seen) == len(set(seen)) == 16 + 8
    seen.clear()
    bits(manager(root, tmp_path, "SEED", 2, cache=tmp_path / "cache"))
    assert seen == []


def test_workers_map_the_file_for_themselves(root: Path, tmp_path: Path) -> None:
    found = manager(root, tmp_path, cache=tmp_path / "cache").train_loader_x.dataset
    found.prepare()
    expected = np.asarray(found.image(5))
    data = pickle.dumps(found)
    assert len(data) < 20_000, "the pixels do not travel"
    assert np.array_equal(np.asarray(pickle.loads(data).image(5)), expected)


@pytest.mark.parametrize("resumed_with_cache", [False, True])
def test_a_run_resumed_with_or_without_it_ends_the_same(root: Path, tmp_path: Path, resumed_with_cache: bool) -> None:
    cache = ("IMAGE_CACHE.ENABLED", True, "IMAGE_CACHE.DIR", str(tmp_path / "cache"), "DATALOADER.NUM_WORKERS", 2)
    plain = SmallTrainer(small_cfg(root, tmp_path / "plain"))
    plain.train()
    options = [("DATALOADER.NUM_WORKERS", 1), cache]
    first, second = options if resumed_with_cache else options[::-1]
    always = ("TRAIN.CHECKPOINT_SECONDS", 0.0)
    stopped = SmallTrainer(small_cfg(root, tmp_path / "run", *always, *first))
    stopped.kill_at = stopped.cfg.OPTIM.MAX_EPOCH  # in the second epoch of two batches
    with pytest.raises(Killed):
        stopped.train()
    stopped.close()
    resumed = SmallTrainer(small_cfg(root, tmp_path / "run", *always, "RESUME", str(tmp_path / "run"), *second))
    resumed.train()
    assert resumed.start_epoch == 1
    assert fingerprint(resumed) == fingerprint(plain)
    assert resumed.hashed_config() == plain.hashed_config()


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:3], lambda d: b"", lambda d: d[:400] + bytes([d[400] ^ 4]) + d[401:],
               lambda d: bytes([d[0] ^ 128]) + d[1:], lambda d: d + b"x"],
)  # fmt: skip
def test_a_damaged_file_is_told_and_made_again(
    root: Path, tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = bits(manager(root, tmp_path, cache=tmp_path / "cache"))
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    assert bits(manager(root, tmp_path, cache=tmp_path / "cache")) == expected
    assert caplog.text.count("cannot be used") == 2
    caplog.clear()
    assert bits(manager(root, tmp_path, cache=tmp_path / "cache")) == expected
    assert "cannot be used" not in caplog.text


def test_an_entry_may_be_removed_while_it_is_read(root: Path, tmp_path: Path) -> None:
    """Another process that needs the room takes the file away; the map stays."""
    plain = bits(manager(root, tmp_path))
    found = manager(root, tmp_path, "DATALOADER.NUM_WORKERS", 1, cache=tmp_path / "cache")
    for data_loader in (found.train_loader_x, found.test_loader):
        data_loader.dataset.prepare()
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert bits(found) == plain


def test_a_changed_image_is_another_entry(root: Path, tmp_path: Path) -> None:
    bits(manager(root, tmp_path, cache=tmp_path / "cache"))
    path = sorted((root / "small" / "test").iterdir())[0]
    Image.new("RGB", (12, 12), "red").save(path)
    found = manager(root, tmp_path, cache=tmp_path / "cache").test_loader.dataset
    found.prepare()
    assert np.asarray(found.image(0)).tolist() == [[[255, 0, 0]] * 12] * 12


def test_another_decoder_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2)).save(path)
    cache = ImageCache(str(tmp_path), 1.0)
    assert cache.find([str(path)]) is None
    cache.make([str(path)], np.array([[2, 3]], np.int32), [np.zeros((2, 3, 3), np.uint8)])
    assert cache.find([str(path)]) is not None
    monkeypatch.setattr(image_cache, "pillow_version", "0")
    assert cache.find([str(path)]) is None


def test_what_does_not_fit_is_decoded_as_ever(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, seen = bits(manager(root, tmp_path)), decoded(monkeypatch)
    found = manager(root, tmp_path, "IMAGE_CACHE.MAX_GIB", 1e-6, cache=tmp_path / "cache")
    assert bits(found) == plain
    assert caplog.text.count("are not kept: IMAGE_CACHE.MAX_GIB is 1e-06") == 2, "said once, not every epoch"
    assert len(seen) == 2 * 12 + 8, "nothing is decoded to be thrown away"
    assert not (tmp_path / "cache").exists()


def test_the_folder_stays_within_its_bound(root: Path, tmp_path: Path) -> None:
    bits(manager(root, tmp_path, cache=tmp_path / "cache"))
    (train, test) = sorted((tmp_path / "cache").iterdir(), key=lambda path: -path.stat().st_size)
    os.utime(train, (1, 1))
    bound = train.stat().st_size + test.stat().st_size
    options = ("IMAGE_CACHE.MAX_GIB", bound / 2**30, "DATASET.SUBSAMPLE_CLASSES", "base")
    bits(manager(root, tmp_path, *options, cache=tmp_path / "cache"))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= bound
    assert test.exists()
    assert not train.exists(), "used longest ago"


def test_a_folder_that_cannot_be_written_is_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = bits(manager(root, tmp_path))
    (tmp_path / "file").write_text("")
    assert bits(manager(root, tmp_path, cache=tmp_path / "file" / "cache")) == plain
    assert "Decoded images cannot be kept" in caplog.text


@pytest.mark.parametrize(("damage", "workers"), [("head", 0), ("missing", 0), ("body", 0), ("body", 1)])
def test_an_unreadable_image_is_named_and_nothing_is_left(
    root: Path, tmp_path: Path, damage: str, workers: int
) -> None:
    path = root / "small" / "train" / "bee_1.png"
    found = manager(root, tmp_path, "DATALOADER.NUM_WORKERS", workers, cache=tmp_path / "cache")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"no image" if damage == "head" else path.read_bytes()[:-60])
    with pytest.raises(DataError, match=rf"^cannot read the image {path}.*restore the file and resume.*$") as caught:
        bits(found)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))
