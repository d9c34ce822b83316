"""A drawn world on disk: whole or not there, and the images that were drawn."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpt_plugin.errors import DataError
from cpt_plugin.worlds import World
from datasets.shapes_world import store
from datasets.shapes_world.class_sets import class_set
from datasets.shapes_world.draw import draw_world

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = World("colors", "clean")


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IMAGES_PER_CLASS", {"train": 2, "val": 1, "test": 2})


def test_draws_once_and_reads_back_the_same_pixels(tmp_path: Path) -> None:
    folder = store.ensure_world(tmp_path, SMALL)
    assert folder == tmp_path / "shapes" / "colors-clean"
    split = store.read_split(folder)
    assert {part: len(rows) for part, rows in split.items()} == {"train": 24, "val": 12, "test": 24}
    classes = class_set(SMALL.class_set)
    images, labels = draw_world(SMALL, "test", 2)
    for (path, label, name), image, expected in zip(split["test"], images, labels.tolist(), strict=True):
        assert (label, name) == (expected, classes[expected].name)
        stored = np.asarray(Image.open(folder / path))
        np.testing.assert_array_equal(stored, image.permute(1, 2, 0).numpy())
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert store.ensure_world(tmp_path, SMALL) == folder
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_two_draws_have_equal_manifests(tmp_path: Path) -> None:
    folders = [store.ensure_world(tmp_path / name, SMALL) for name in ("a", "b")]
    first, second = ((folder / store.MANIFEST_FILE).read_bytes() for folder in folders)
    assert first == second
    assert len(json.loads(first)["pixels_sha256"]) == 64


def test_an_interrupted_draw_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Image.Image.save
    count = 0

    def fail_late(self: Image.Image, *args: object, **options: object) -> None:
        nonlocal count
        count += 1
        if count == 30:
            raise KeyboardInterrupt
        saved(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", fail_late)
    with pytest.raises(KeyboardInterrupt):
        store.ensure_world(tmp_path, SMALL)
    assert count == 30
    assert list((tmp_path / "shapes").iterdir()) == []


def test_a_killed_draw_is_never_used(tmp_path: Path) -> None:
    code = (
        "import os, sys; from datasets.shapes_world import store;"
        "from cpt_plugin.worlds import World;"
        "store._publish = lambda draft, final: os._exit(9);"
        "store.IMAGES_PER_CLASS = {'train': 1, 'val': 1, 'test': 1};"
        "store.ensure_world(sys.argv[1], World('colors', 'clean'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == 9
    (draft,) = (tmp_path / "shapes").iterdir()
    assert draft.name.startswith(".colors-clean.partial-")
    folder = store.ensure_world(tmp_path, SMALL)
    assert len(store.read_split(folder)["train"]) == 24


def test_two_draws_at_once_do_not_break_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, publish = threading.Barrier(2, timeout=60), store._publish

    def publish_together(draft: Path, final: Path) -> None:
        barrier.wait()
        publish(draft, final)

    monkeypatch.setattr(store, "_publish", publish_together)
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(store.ensure_world(tmp_path, SMALL)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "shapes" / "colors-clean"] * 2
    assert list((tmp_path / "shapes").iterdir()) == folders[:1]
    assert len(list(folders[0].rglob("*.png"))) == 60


def test_pixels_are_known_by_a_hash_that_the_place_does_not_change(tmp_path: Path) -> None:
    first, second = (store.content_hash(store.ensure_world(tmp_path / name, SMALL)) for name in ("a", "b"))
    drawn = b"".join(
        draw_world(SMALL, part, count)[0].permute(0, 2, 3, 1).contiguous().numpy().tobytes()
        for part, count in store.IMAGES_PER_CLASS.items()
    )
    assert first == second == hashlib.sha256(drawn).hexdigest()
    assert store.content_hash(store.ensure_world(tmp_path / "a", World("colors", "dim"))) != first


def test_sums_are_those_of_all_images_and_the_usual_tool_reads_them(tmp_path: Path) -> None:
    folder = store.ensure_world(tmp_path, SMALL)
    lines = (folder / store.SUMS_FILE).read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {str(p.relative_to(folder)) for p in folder.rglob("*.png")}
    if tool := shutil.which("sha256sum"):
        subprocess.run([tool, "--check", "--quiet", store.SUMS_FILE], cwd=folder, check=True)


@pytest.fixture
def next_process() -> Iterator[Callable[[], None]]:
    """Call it where another process would begin: images are checked once in each."""
    store._check_images.cache_clear()
    yield store._check_images.cache_clear
    store._check_images.cache_clear()


def other_image(path: Path) -> None:
    """Swap one bit of one pixel; the file stays a whole image."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(path, compress_level=1)


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("change", [other_image, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_changed_image_is_refused_by_name(
    tmp_path: Path, next_process: Callable[[], None], part: str, change: Callable[[Path], object]
) -> None:
    folder = store.ensure_world(tmp_path, SMALL)
    image = folder / store.read_split(folder)[part][-1][0]
    intact = image.read_bytes()
    change(image)
    next_process()
    for _ in range(2):
        with pytest.raises(DataError, match=f"image {image}.*delete {folder}, it is drawn afresh"):
            store.ensure_world(tmp_path, SMALL)
    image.write_bytes(intact)
    assert store.ensure_world(tmp_path, SMALL) == folder


def test_images_are_read_once_a_process(
    tmp_path: Path, next_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure_world(tmp_path, SMALL)
    next_process()
    hashed: list[Path] = []
    sha256 = store.sha256_of
    monkeypatch.setattr(store, "sha256_of", lambda path: [hashed.append(path), sha256(path)][1])
    for _ in range(3):
        store.ensure_world(tmp_path, SMALL)
    images = [path for path in hashed if path.suffix == ".png"]
    assert len(images) == len(set(images)) == 60


@pytest.mark.parametrize("damage", ["manifest", "split", "sums", "pixels", "version", "empty"])
def test_a_damaged_folder_is_refused_with_the_remedy(tmp_path: Path, damage: str) -> None:
    folder = store.world_folder(tmp_path, SMALL)
    if damage == "empty":
        folder.mkdir(parents=True)
    else:
        store.ensure_world(tmp_path, SMALL)
        manifest = folder / store.MANIFEST_FILE
        if damage == "manifest":
            manifest.unlink()
        elif damage == "split":
            (folder / store.SPLIT_FILE).write_text("{}")
        elif damage == "sums":
            (folder / store.SUMS_FILE).write_text("")
        elif damage == "pixels":
            manifest.write_text(manifest.read_text().replace("pixels_sha256", "pixels"))
        else:
            text = manifest.read_text()
            manifest.write_text(text.replace('"drawing_version": 1', '"drawing_version": 0'))
    with pytest.raises(DataError, match=r"delete .*colors-clean, it is drawn afresh"):
        store.ensure_world(tmp_path, SMALL)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "shapes").write_text("a file in the way")
    with pytest.raises(DataError, match="give a writable"):
        store.ensure_world(tmp_path, SMALL)
