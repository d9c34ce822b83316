"""Small images read lately, kept in memory: opening their files costs more than all else that is done with them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

_BANDS = 3


class RecentImages:
    """RGB images by path and way of reading, as long as the file stays as it was; those used longest ago go first.

    Args:
        max_pixels: of an image; larger ones are not kept.
        max_bytes: of the pixels of all.
    """

    def __init__(self, max_pixels: int, max_bytes: int) -> None:
        self._max_pixels, self._max_bytes = max_pixels, max_bytes
        self._images: OrderedDict[tuple[str, bool], tuple[tuple[int, int, int], Image.Image]] = OrderedDict()
        self.bytes = 0

    def get(self, path: str, read: Callable[[str], Image.Image], upright: bool = False) -> Image.Image:
        """A copy of the image, from memory or as ``read`` gives it; ``upright`` tells two ways of reading apart."""
        try:
            found = os.stat(path)
        except OSError:
            return read(path)
        state = found.st_mtime_ns, found.st_size, found.st_ino
        key = path, upright
        kept = self._images.pop(key, None)
        if kept is not None:
            self.bytes -= _size(kept[1])
        image = kept[1] if kept is not None and kept[0] == state else read(path)
        if image.width * image.height <= self._max_pixels:
            self._images[key] = state, image
            self.bytes += _size(image)
            while self.bytes > self._max_bytes:
                self.bytes -= _size(self._images.popitem(last=False)[1][1])
            return image.copy()
        return image


def _size(image: Image.Image) -> int:
    return _BANDS * image.width * image.height


RECENT_IMAGES = RecentImages(max_pixels=64 * 64, max_bytes=64 * 2**20)
"""Of this process."""
