"""CIFAR-100's official files, read without running anything in them, and written out as images once."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpt_plugin._hashing import md5_of
from cpt_plugin.atomic import atomic_write_json, temporary_sibling
from cpt_plugin.data.manifest import manifest_of
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.logs import Progress

_PARTS = ("train", "test")
CONTENT_FILE = "content.json"
_SIDE = 32
_HARMLESS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)
"""What a pickled array needs; a pickle that names anything else is refused before it is called."""
_LOG = logging.getLogger("cpt_plugin")


def read_pickle(path: Path) -> dict[str, Any]:
    """A dictionary of plain values and arrays; texts that Python 2 wrote come back as texts.

    Raises:
        DataError: the file cannot be read, is damaged, or wants anything but a plain array to be made.
    """
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; unpack cifar-100-python.tar.gz again") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path} is no file of CIFAR-100 ({error}): unpack cifar-100-python.tar.gz again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no dictionary: unpack cifar-100-python.tar.gz again")
    return content


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which no array needs")
        return super().find_class(module, name)


def class_names(folder: Path) -> list[str]:
    """The names of the classes, by label.

    Raises:
        DataError: the file ``meta`` is missing or damaged.
    """
    names = read_pickle(folder / "meta").get("fine_label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{folder / 'meta'} has no list fine_label_names: unpack cifar-100-python.tar.gz again")
    return [name.replace("_", " ") for name in names]


def ensure_images(folder: Path, names: list[str]) -> Path:
    """Write ``train`` and ``test`` to ``png/<part>/<label>/<index>.png`` unless that was done; returns ``png``.

    The folder appears whole or not at all.

    Raises:
        DataError: a file is missing or damaged, the folder cannot be written, or its images are not those written.
    """
    target = folder / "png"
    if target.is_dir():
        return target
    _LOG.info(f"writing CIFAR-100's images to {target}, once (half a minute)")
    partial = temporary_sibling(target)
    try:
        counts = {part: _write_part(folder / part, partial / part, len(names)) for part in _PARTS}
        atomic_write_json(partial / CONTENT_FILE, counts)
        try:
            os.rename(partial, target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    except OSError as error:
        raise DataError(
            f"cannot write {error.filename or target}: {error.strerror}; copy {folder} to a data folder that can be "
            "written (--root, DATA_ROOT)"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def check_images(target: Path, part: str, found: int) -> None:
    """Raise DataError where a part has not as many images as were written."""
    try:
        written = json.loads((target / CONTENT_FILE).read_text(encoding="utf-8"))[part]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{target / CONTENT_FILE} is damaged ({error!r}): delete {target}, it is made again") from error
    if written != found:
        raise DataError(f"{target / part} has {found:,} of {written:,} images: delete {target}, it is made again")


def _write_part(source: Path, target: Path, classes: int) -> int:
    official = manifest_of("cifar100_lt").md5[source.name]
    if source.is_file() and md5_of(source) != official:
        _LOG.warning(f"{source} is not the official file of CIFAR-100 (its MD5 differs)")
    content = read_pickle(source)
    pixels, labels = content.get("data"), content.get("fine_labels")
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and isinstance(labels, list)
        and pixels.shape == (len(labels), 3 * _SIDE * _SIDE)
        and all(type(label) is int and 0 <= label < classes for label in labels)
    ):
        raise DataError(f"{source} has no images with labels 0..{classes - 1}: unpack cifar-100-python.tar.gz again")
    for label in sorted(set(labels)):
        (target / str(label)).mkdir(parents=True)
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    progress = Progress(len(labels), description=f"write {source.name}")
    try:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(target / str(label) / f"{index:05d}.png", compress_level=1)
            progress.update()
    finally:
        progress.close()
    return len(labels)
