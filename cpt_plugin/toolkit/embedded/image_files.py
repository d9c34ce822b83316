"""Image files as RGB: as they are stored, or upright, as a viewer shows them."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import ExifTags, Image, ImageOps, features

from cpt_plugin.data import HEIC_SUFFIXES
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.recent_images import RECENT_IMAGES

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, or a damaged one."""
_LYING = (5, 6, 7, 8)
"""EXIF orientations of which height and width are exchanged."""


def read_image(path: str, upright: bool = False) -> Image.Image:
    """Read an image as RGB.

    Args:
        path: the file.
        upright: turn it as its EXIF orientation says, as a viewer does; otherwise it is left as it is stored, which is
            how CoOp and its successors read the published data sets.

    Raises:
        DataError: it cannot be decoded (path and reason).
    """
    return RECENT_IMAGES.get(path, lambda path: _read(path, _upright_rgb if upright else _rgb), upright)


def image_size(path: str, upright: bool = False) -> tuple[int, int]:
    """Height and width that an image's file states, of the image as :func:`read_image` gives it.

    Raises:
        DataError: it cannot be read (path and reason).
    """

    def size(image: Image.Image) -> tuple[int, int]:
        sizes = image.height, image.width
        return sizes[::-1] if upright and orientation(image) in _LYING else sizes

    return _read(path, size)


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """An image whose header alone is read; Pillow's warning of a large one, which does not name it, is kept back."""
    if path.lower().endswith(HEIC_SUFFIXES) and reads_heic():
        _register_heic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            yield image


def orientation(image: Image.Image) -> int:
    """EXIF orientation (1 to 8, 1 is upright) that is left to follow, as far as the header tells.

    Pillow's decoder of TIFF follows it by itself. A PNG file that has it behind its pixels counts as upright here.
    """
    if image.format == "TIFF":
        return 1
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's own getexif decodes all pixels
    return found if found in range(1, 9) else 1


def refuse_deep(image: Image.Image) -> None:
    """Raise ValueError for gray values of more than 8 bits, which Pillow would clip to white instead of scaling."""
    if image.mode[0] in "IF":
        raise ValueError(f"its pixels have more than 8 bits (Pillow's mode {image.mode}): save it with 8")


@cache
def reads_heic() -> bool:
    """Whether HEIC files can be read here: ``pillow-heif`` is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def reads_avif() -> bool:
    """Whether this Pillow reads AVIF files."""
    return "avif" in features.modules and features.check_module("avif")


@cache
def _register_heic() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _upright_rgb(image: Image.Image) -> Image.Image:
    refuse_deep(image)
    upright = ImageOps.exif_transpose(image)  # always an image of its own
    return upright if upright.mode == "RGB" else _rgb(upright)


def _rgb(image: Image.Image) -> Image.Image:
    refuse_deep(image)
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same pixels; Pillow advises it in a warning otherwise
    return image.convert("RGB")


def _read(path: str, wanted: Callable[[Image.Image], Any]) -> Any:
    try:
        with opened(os.fspath(path)) as image:
            return wanted(image)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the image {path}: {reason}; restore the file and resume") from error
