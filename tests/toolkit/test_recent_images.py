"""Small images kept in memory: same pixels, never those of a file that was changed, never more than the bound."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded import image_files
from cpt_plugin.toolkit.embedded.recent_images import RecentImages


def drawn(path: Path, side: int, value: int) -> str:
    Image.new("RGB", (side, side), (value, 0, 255 - value)).save(path)
    return str(path)


@pytest.fixture
def reads(monkeypatch):
    """Paths that were opened."""
    opened = []
    true = image_files._read

    def spied(path, wanted):
        opened.append(path)
        return true(path, wanted)

    monkeypatch.setattr(image_files, "_read", spied)
    monkeypatch.setattr(image_files, "RECENT_IMAGES", RecentImages(max_pixels=64, max_bytes=3 * 64 * 2))
    return opened


def test_a_small_image_is_opened_once_and_copied(tmp_path, reads):
    path = drawn(tmp_path / "a.png", 8, 10)
    first = image_files.read_image(path)
    first.paste((1, 2, 3), (0, 0, 8, 8))
    second = image_files.read_image(path)
    assert reads == [path]
    assert (np.asarray(second) == (10, 0, 245)).all()


def test_a_changed_file_is_read_again(tmp_path, reads):
    path = drawn(tmp_path / "a.png", 8, 10)
    image_files.read_image(path)
    drawn(tmp_path / "a.png", 8, 200)
    os.utime(path, ns=(1, 1))
    assert image_files.read_image(path).getpixel((0, 0)) == (200, 0, 55)


def test_a_removed_file_is_missed(tmp_path, reads):
    path = drawn(tmp_path / "a.png", 8, 10)
    image_files.read_image(path)
    os.remove(path)
    with pytest.raises(DataError, match=r"a\.png"):
        image_files.read_image(path)


def test_the_one_used_least_lately_goes_first_and_large_ones_are_not_kept(tmp_path, reads):
    a, b, c = (drawn(tmp_path / f"{name}.png", 8, 10) for name in "abc")
    large = drawn(tmp_path / "large.png", 9, 10)
    for path in (a, b, a, c, large, a, large, b):
        image_files.read_image(path)
    assert reads == [a, b, c, large, large, b]
    assert image_files.RECENT_IMAGES.bytes == 2 * 3 * 64


def test_an_image_read_upright_is_another_one(tmp_path, reads):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = str(tmp_path / "a.png")
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    sizes = [image_files.read_image(path, upright).size for upright in (False, True, False, True)]
    assert sizes == [(8, 4), (4, 8), (8, 4), (4, 8)]
    assert len(reads) == 2
