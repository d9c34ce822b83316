"""Images of a person's own as a viewer shows them; published ones as they are stored; what cannot be read is said."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded import image_files
from cpt_plugin.toolkit.embedded.data import Datum, UprightDatum
from cpt_plugin.toolkit.embedded.image_files import image_size, read_image
from cpt_plugin.toolkit.embedded.loader import batches
from datasets import _custom, image_folder
from tests.helpers.fixtures.custom import image_folder as draw

WIDTH, HEIGHT = 24, 12
ORIENTATION = 0x0112
AS_SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""What a viewer makes of stored pixels (h, w, 3), by EXIF orientation (EXIF 2.3, tag 274)."""


def stored(file: Path, orientation: int) -> np.ndarray:
    """Write a picture without symmetry; returns its pixels as they are stored."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = 255
    pixels[0, 0] = (255, 0, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if file.suffix == ".webp" else {}
    Image.fromarray(pixels).save(file, exif=exif, **options)
    return pixels


@pytest.mark.parametrize("orientation", AS_SHOWN)
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_own_images_are_upright_and_published_ones_as_stored(tmp_path, suffix, orientation):
    file = tmp_path / f"photo{suffix}"
    pixels = stored(file, orientation)
    shown = AS_SHOWN[orientation](pixels)
    assert np.array_equal(np.asarray(read_image(str(file), upright=True)), shown)
    assert np.array_equal(np.asarray(read_image(str(file))), pixels), "read before in the other way"
    assert image_size(str(file), upright=True) == shown.shape[:2]
    assert image_size(str(file)) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_other_formats_have_the_size_that_they_are_read_with(tmp_path, suffix):
    file = tmp_path / f"photo{suffix}"
    stored(file, 6)
    image = read_image(str(file), upright=True)
    assert (image.height, image.width) == image_size(str(file), upright=True) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_without_meaning_turns_nothing(tmp_path, value):
    pixels = stored(tmp_path / "a.png", value)
    assert np.array_equal(np.asarray(read_image(str(tmp_path / "a.png"), upright=True)), pixels)


def manager(root: Path, cache: Path | None = None, classes: str = "all"):
    cfg = default_cfg()
    cfg.DATASET.SUBSAMPLE_CLASSES = classes
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.SEED = str(root), "ImageFolder", "mine", 1
    cfg.INPUT.SIZE = (WIDTH, WIDTH)
    cfg.IMAGE_CACHE.ENABLED, cfg.IMAGE_CACHE.DIR = cache is not None, str(cache or "")
    return toolkit.DataManager(cfg)


def test_the_loader_gives_upright_images_with_and_without_the_cache(tmp_path):
    for name in "ab":
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index in range(3):
            stored(tmp_path / "mine" / name / f"{index}.png", 6)
    plain = manager(tmp_path)
    assert all(type(item) is UprightDatum for item in plain.dataset.train_x)
    seen = [batch["img"] for batch in batches(plain.test_loader)]
    corner = seen[0][0, :, -1, 0]
    assert not corner.any(), "stored, that corner is black on the left and below; turned, it is black too"
    assert seen[0][0, :, WIDTH // 4, -WIDTH // 4].all(), "turned to the right, the white quarter is above on the right"
    for _ in ("made", "read"):
        kept = [batch["img"] for batch in batches(manager(tmp_path, tmp_path / "cache").test_loader)]
        assert all(a.equal(b) for a, b in zip(kept, seen, strict=True))


def test_base_and_new_classes_are_upright_too(tmp_path):
    draw(tmp_path / "mine")
    for part in ("base", "new"):
        cfg = default_cfg()
        cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.SEED = str(tmp_path), "ImageFolder", "mine", 1
        cfg.DATASET.SUBSAMPLE_CLASSES = part
        assert {type(item) for item in toolkit.build_dataset(cfg).test} == {UprightDatum}


def test_a_cache_of_the_other_way_is_not_read(tmp_path):
    from cpt_plugin.toolkit.embedded.loader import DatasetWrapper

    stored(tmp_path / "a.png", 6)
    cfg = default_cfg()
    cfg.IMAGE_CACHE.ENABLED, cfg.IMAGE_CACHE.DIR = True, str(tmp_path / "cache")
    shapes = []
    for kind in (Datum, UprightDatum, Datum):
        images = DatasetWrapper(cfg, [kind(str(tmp_path / "a.png"), classname="a")])
        images.prepare()
        shapes.append(images.image(0).size)
    assert shapes == [(WIDTH, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT)]


def turn_one(folder: Path) -> None:
    photo = folder / "dog" / "photo 0.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    Image.open(photo).save(photo, exif=exif)


def test_the_split_hash_tells_that_images_were_turned(tmp_path, caplog, monkeypatch):
    turn_one(draw(tmp_path / "mine"))
    with caplog.at_level("INFO", "cpt_plugin"):
        upright = manager(tmp_path).split_hash
    assert manager(tmp_path).split_hash == upright
    assert "1 of 30 images are not stored upright (EXIF orientation); they are turned" in caplog.text
    monkeypatch.setattr(_custom, "TOOLKIT", "dassl")
    with caplog.at_level("WARNING", "cpt_plugin"):
        assert manager(tmp_path).split_hash != upright
    assert "Dassl reads them as they are stored" in caplog.text


def test_transparent_palettes_are_read_without_pillows_warning(tmp_path):
    palette = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).quantize(8)
    palette.save(tmp_path / "p.png", transparency=bytes([0] * 4 + [255] * 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(read_image(str(tmp_path / "p.png"))), np.asarray(palette.convert("RGB")))


def test_large_images_are_named(tmp_path, caplog, monkeypatch):
    draw(tmp_path / "mine", {"a": 4, "b": 4})
    Image.new("RGB", (60, 50)).save(tmp_path / "mine" / "a" / "wide.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings(), caplog.at_level("WARNING", "cpt_plugin"):
        warnings.simplefilter("error")
        manager(tmp_path)
    assert "1 image is so large that every epoch takes long: a/wide.png (60 x 50)" in caplog.text


# -- other kinds of files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "it is a pointer of Git LFS"),
        (b"no image", "it is no image that Pillow knows"),
    ],
)
def test_what_is_no_image_is_said_to_be_what_it_is(tmp_path, content, reason):
    (draw(tmp_path / "mine") / "dog" / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"1 of 31 images in .* cannot be read: dog/x\.jpg \({reason}"):
        manager(tmp_path)


@pytest.fixture
def without_heic(monkeypatch):
    for module in (image_files, image_folder, _custom):
        monkeypatch.setattr(module, "reads_heic", lambda: False)


def test_heic_photographs_are_counted_with_the_remedy(tmp_path, caplog, without_heic):
    for name in ("b.HEIC", "a.heif"):
        (draw(tmp_path / "mine") / "dog" / name).write_bytes(b"x")
    with caplog.at_level("WARNING", "cpt_plugin"):
        manager(tmp_path)
    assert "2 HEIC photographs are left out: dog/a.heif, dog/b.HEIC; to read" in caplog.text
    assert "pip install pillow-heif" in caplog.text
    assert "no image" not in caplog.text, "counted once"


def test_a_class_of_heic_photographs_alone_is_refused_with_the_remedy(tmp_path, without_heic):
    (draw(tmp_path / "mine") / "eel").mkdir()
    (tmp_path / "mine" / "eel" / "1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no image in eel; eel/1\.heic is a HEIC photograph: .*pillow-heif"):
        manager(tmp_path)


def test_heic_photographs_are_read_with_pillow_heif(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    (draw(tmp_path / "mine") / "eel").mkdir()
    pixels = stored(tmp_path / "a.png", 1)
    for index in range(3):
        Image.fromarray(pixels).save(tmp_path / "mine" / "eel" / f"{index}.HEIC", quality=100)
    (item,) = (item for item in manager(tmp_path).dataset.test if item.classname == "eel")
    found = np.asarray(read_image(item.impath, upright=True)).astype(int)
    assert found.shape[:2] == image_size(item.impath, upright=True) == (HEIGHT, WIDTH)
    assert np.abs(found - pixels).mean() < 20, "pillow-heif turns what the file says is to be turned"


# -- which images they are ---------------------------------------------------------------------------------------------


def noise(file: Path, seed: int) -> None:
    """Write a bitmap of pixels drawn at random: files of the same size, whatever the pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(file)


def noises(folder: Path, seed: int) -> Path:
    for number, name in enumerate("ab"):
        for index in range(4):
            noise(folder / name / f"{index}.bmp", seed + 10 * number + index)
    return folder


def test_the_split_hash_tells_images_of_the_same_names_and_sizes_apart(tmp_path):
    for place, seed in (("here", 0), ("there", 0), ("elsewhere", 100)):
        noises(tmp_path / place / "mine", seed)
    hashes = {place: manager(tmp_path / place).split_hash for place in ("here", "there", "elsewhere")}
    assert hashes["here"] == hashes["there"] != hashes["elsewhere"]
    for image in (tmp_path / "there" / "mine").rglob("*.bmp"):
        image.touch()
    assert manager(tmp_path / "there").split_hash == hashes["there"], "the time of a file is none of its content"


@pytest.mark.parametrize("index", range(4))
def test_the_split_hash_follows_every_image(tmp_path, index):
    noises(tmp_path / "mine", 0)
    plain = manager(tmp_path).split_hash
    noise(tmp_path / "mine" / "b" / f"{index}.bmp", 99)
    assert manager(tmp_path).split_hash != plain


def test_images_that_change_places_are_other_images(tmp_path):
    noises(tmp_path / "mine", 0)
    plain = manager(tmp_path).split_hash
    one, other = (tmp_path / "mine" / name / "0.bmp" for name in "ab")
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    assert manager(tmp_path).split_hash != plain


def test_the_split_hash_is_of_the_images_in_use(tmp_path):
    for name in "cd":
        noise(tmp_path / "mine" / name / "0.bmp", ord(name))
        noise(tmp_path / "mine" / name / "1.bmp", ord(name) + 10)
    noises(tmp_path / "mine", 0)
    base, new = (manager(tmp_path, classes=part).split_hash for part in ("base", "new"))
    noise(tmp_path / "mine" / "d" / "0.bmp", 99)
    assert manager(tmp_path, classes="base").split_hash == base
    assert manager(tmp_path, classes="new").split_hash != new


@pytest.mark.parametrize(("size", "place"), [(1, 0), (6000, 3500), (10**5, 0), (10**5, 50_000), (10**5, -1)])
def test_files_are_told_apart_by_size_and_bytes(tmp_path, size, place):
    file = tmp_path / "file"
    digests = set()
    for value, length in ((0, size), (1, size), (1, size + 1)):
        content = bytearray(length)
        content[place] = value
        file.write_bytes(content)
        digests.add(_custom.file_digest(str(file), length))
    assert len(digests) == 3
