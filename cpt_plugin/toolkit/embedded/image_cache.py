"""Decoded images in one file that all loader workers map into memory (``IMAGE_CACHE.ENABLED True``)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from cpt_plugin.atomic import temporary_sibling
from cpt_plugin.bounded_folder import BoundedFolder, cache_folder
from cpt_plugin.errors import DataError

LOG = logging.getLogger("cpt_plugin")
SUFFIX = ".pixels"
_DIGEST_BYTES = 32
_SIZE_BYTES = 8


class DecodedImages:
    """The full-size RGB pixels of n image files, as the decoder gave them.

    The file holds height and width of every image (n, 2) in int32, the pixels of one image after the other, and the
    SHA-256 of all that. It is mapped into memory, and may be removed while it is. A copy by pickle maps it anew.

    Args:
        path: the file.
        number: n.
        check: whether to compare the SHA-256.

    Raises:
        DataError: the file is damaged, or of another number of images.
        OSError: it is missing or cannot be read.
    """

    def __init__(self, path: Path, number: int, check: bool = True) -> None:
        self.path = path
        head = _SIZE_BYTES * number
        if path.stat().st_size < head + _DIGEST_BYTES:
            raise DataError(f"{path} is too short")
        self._file = np.memmap(path, np.uint8, "r")
        body, digest = self._file[:-_DIGEST_BYTES], self._file[-_DIGEST_BYTES:]
        self._sizes = body[:head].view(np.int32).reshape(number, 2)
        self._ends = head + np.cumsum(pixel_bytes(self._sizes))
        if (self._sizes < 1).any() or len(body) != self._ends[-1]:
            raise DataError(f"{path} has another length than its images")
        if check and hashlib.sha256(body.data).digest() != digest.tobytes():
            raise DataError(f"{path} does not have its SHA-256")

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Image.Image:
        (height, width), end = self._sizes[index].tolist(), int(self._ends[index])
        return Image.fromarray(self._file[end - 3 * height * width : end].reshape(height, width, 3))

    def __reduce__(self) -> tuple[type[DecodedImages], tuple[Path, int, bool]]:
        return DecodedImages, (self.path, len(self), False)


def pixel_bytes(sizes: np.ndarray) -> np.ndarray:
    """Bytes (n,) of images of heights and widths (n, 2)."""
    return 3 * sizes.prod(axis=1, dtype=np.int64)


class ImageCache:
    """A bounded folder of decoded images, a file for a list of images, under the hash of all it depends on.

    That is every image's path, size and time of change, in order, which of them are read upright (``upright``, "" for
    none), and the version of the decoder.
    """

    def __init__(self, folder: str, max_gib: float) -> None:
        self._max_gib = max_gib
        self._folder = BoundedFolder(Path(folder) if folder else cache_folder("images"), SUFFIX, max_gib * 2**30)

    def find(self, paths: Sequence[str], upright: str = "") -> DecodedImages | None:
        """The images of some files; None, with a warning if the entry is damaged, where it must be made.

        Raises:
            DataError: a file is missing.
        """
        path = self._path(paths, upright)
        try:
            found = DecodedImages(path, len(paths))
        except FileNotFoundError:
            return None
        except (DataError, OSError) as error:
            LOG.warning(f"Decoded images cannot be used ({error}): they are decoded again")
            return None
        self._folder.touch(path)
        return found

    def make(
        self, paths: Sequence[str], sizes: np.ndarray, images: Iterable[np.ndarray], upright: str = ""
    ) -> DecodedImages | None:
        """Keep the images of some files; None, with a warning, where there is no room for them.

        Args:
            paths: n files.
            sizes: (n, 2) their heights and widths, int32.
            images: their pixels (height, width, 3) in uint8; not asked for if they would be too large.
            upright: as in the class.
        """
        needed = sizes.nbytes + int(pixel_bytes(sizes).sum()) + _DIGEST_BYTES
        if needed > self._folder.max_bytes:
            LOG.warning(
                f"{len(paths)} decoded images of {needed / 2**30:.3g} GiB are not kept: IMAGE_CACHE.MAX_GIB is "
                f"{self._max_gib:g}"
            )
            return None
        path = self._path(paths, upright)
        try:
            self._folder.make_room(needed, path)
            _write(path, sizes, images)
            return DecodedImages(path, len(paths))
        except OSError as error:
            LOG.warning(f"Decoded images cannot be kept in {self._folder.folder} ({error}): every epoch decodes them")
            return None

    def _path(self, paths: Sequence[str], upright: str) -> Path:
        decoder = [pillow_version, *(str(features.version(name)) for name in ("jpg", "libjpeg_turbo", "zlib", "webp"))]
        key = json.dumps([1, decoder, files_digest(paths, upright)])
        return self._folder.path(hashlib.sha256(key.encode()).hexdigest())


def files_digest(paths: Iterable[str], upright: str = "") -> str:
    """SHA-256 (hex) of the identity of image files in their order: where they lie, their sizes and times of change.

    Args:
        paths: the files.
        upright: which of them are read upright; "" for none.

    Raises:
        DataError: one is missing (named).
    """
    digest = hashlib.sha256(upright.encode())
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"cannot read the image {path}: {error.strerror}; restore the file and resume") from error
        digest.update(json.dumps([str(Path(path).resolve()), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()


def _write(path: Path, sizes: np.ndarray, images: Iterable[np.ndarray]) -> None:
    """Write a file of :class:`DecodedImages`, which appears under its name only whole."""
    temporary, digest = temporary_sibling(path), hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for part, shape in zip(chain([sizes], images), [sizes.shape, *((*size, 3) for size in sizes)], strict=True):
                if part.shape != shape:
                    raise OSError(f"an image is {part.shape} and its file said {shape}")
                data = np.ascontiguousarray(part).data
                digest.update(data)
                file.write(data)
            file.write(digest.digest())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
