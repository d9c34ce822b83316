"""Files read once: size, SHA-256 and, for images, whether they can be decoded."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cpt_plugin.data import IMAGE_SUFFIXES
from cpt_plugin.data.progress import Progress
from cpt_plugin.errors import DataError

_CHUNK = 1 << 20
_BATCH = 4096


class Content(NamedTuple):
    """What a file holds; ``fault`` says why it cannot be read or decoded, "" when it can."""

    size: int
    sha256: str
    fault: str = ""


def examine(folder: Path, paths: Iterable[str], decode: bool) -> Iterator[tuple[str, Content]]:
    """Path and content of each file, read by as many threads as there are processors.

    Hashing and decoding let go of Python's lock, so that the threads keep the processors busy.
    """
    waiting = list(paths)
    rest, done = iter(waiting), 0
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, Progress("checking", len(waiting), unit="files") as progress:
        while batch := list(islice(rest, _BATCH)):
            for path, content in zip(batch, pool.map(partial(_look, folder, decode), batch), strict=True):
                done += 1
                progress.to(done)
                yield path, content


def _look(folder: Path, decode: bool, path: str) -> Content:
    try:
        with open(folder / path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if decode and path.lower().endswith(IMAGE_SUFFIXES):
                data = file.read()
                return Content(len(data), hashlib.sha256(data).hexdigest(), _undecodable(data))
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return Content(0, "", f"cannot be read: {error.strerror}")
    return Content(size, digest.hexdigest(), "" if size or not decode else "is empty")


def _undecodable(data: bytes) -> str:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise DataError("to check images the package Pillow is needed: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
            with Image.open(io.BytesIO(data)) as image:
                image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        return f"cannot be decoded: {error}"
    return ""
