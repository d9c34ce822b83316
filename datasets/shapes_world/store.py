"""A world's images on disk, drawn once: whole under their final name or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

from cpt_plugin._hashing import sha256_of
from cpt_plugin.errors import DataError
from cpt_plugin.worlds import DATASET_NAME, World
from datasets.shapes_world.class_sets import class_set

IMAGES_PER_CLASS: dict[str, int] = {"train": 32, "val": 10, "test": 40}
SPLIT_FILE = "split_zhou_Shapes.json"
MANIFEST_FILE = "manifest.json"
SUMS_FILE = "SHA256SUMS"
"""SHA-256 of every image file, as `sha256sum --check` reads it."""
DRAWING_VERSION = 1
"""Raise it with every change of the renderer, the class sets or the seeds: older folders are then refused."""
_ABANDONED_SECONDS = 3600

Split = dict[str, list[tuple[str, int, str]]]


def world_folder(root: str | Path, world: World) -> Path:
    """Return where a world lives below the data folder ``root``."""
    return Path(root) / DATASET_NAME / world.folder


def ensure_world(root: str | Path, world: World) -> Path:
    """Draw the world below ``root`` unless it is there already, and return its folder.

    Images are drawn into a sibling folder that is flushed to disk and renamed at the end, so a folder under
    the final name is complete. When two processes draw at once, the first to finish wins.

    Every image is compared, once a process, with the SHA-256 that it had when it was drawn.

    Raises:
        DataError: a folder of that name is incomplete, was drawn by another version or cannot be written, or an
            image in it is missing or changed.
    """
    final = world_folder(root, world)
    if not final.exists():
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _sweep(final)
            draft = final.with_name(f"{_draft_prefix(final)}{os.getpid()}-{secrets.token_hex(4)}")
            draft.mkdir()
        except OSError as error:
            raise DataError(f"cannot write to {final.parent} ({error}): give a writable --root.") from error
        try:
            _draw(draft, world)
            _publish(draft, final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    manifest = check_manifest(final, world)
    _check_images(final, manifest["sums_sha256"])
    return final


def content_hash(folder: Path) -> str:
    """Return the SHA-256 (hex) of all pixels of a world that :func:`ensure_world` has checked, as they were drawn.

    Other versions of torch may draw other pixels, so this says whether two machines have the same images.
    """
    return str(json.loads((folder / MANIFEST_FILE).read_text())["pixels_sha256"])


def read_split(folder: Path) -> Split:
    """Read the split file: for train, val and test a list of (path below the folder, label, class name).

    Raises:
        DataError: the file is missing or malformed.
    """
    path = folder / SPLIT_FILE
    try:
        raw = json.loads(path.read_text())
        return {part: [(str(p), int(n), str(name)) for p, n, name in raw[part]] for part in IMAGES_PER_CLASS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path} ({error!r}): {_remedy(folder)}") from error


def check_manifest(folder: Path, world: World) -> dict[str, Any]:
    """Return the manifest of a drawn world after comparing it with what this version would draw.

    Raises:
        DataError: the manifest or split file is missing, damaged, or belongs to another world or version.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        expected = {
            "world": world.name,
            "drawing_version": DRAWING_VERSION,
            "split_sha256": sha256_of(folder / SPLIT_FILE),
            "sums_sha256": sha256_of(folder / SUMS_FILE),
            "pixels_sha256": str(manifest["pixels_sha256"]),
        }
        wrong = [key for key, value in expected.items() if manifest.get(key) != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder} is not a complete drawn world ({error!r}): {_remedy(folder)}") from error
    if wrong:
        raise DataError(f"{folder / MANIFEST_FILE} disagrees in {', '.join(wrong)}: {_remedy(folder)}")
    return manifest


@cache
def _check_images(folder: Path, sums_sha256: str) -> None:
    """Compare every image with the sum that was written when it was drawn; a failure is not remembered."""
    for line in (folder / SUMS_FILE).read_text().splitlines():
        wanted, _, name = line.partition("  ")
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise DataError(f"cannot read the image {folder / name} ({error}): {_remedy(folder)}") from error
        if found != wanted:
            raise DataError(f"the image {folder / name} is not the one that was drawn: {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"delete {folder}, it is drawn afresh."


def _draft_prefix(final: Path) -> str:
    return f".{final.name}.partial-"


def _sweep(final: Path) -> None:
    """Remove drafts that a killed process left behind."""
    for draft in final.parent.glob(f"{_draft_prefix(final)}*"):
        try:
            abandoned = time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS
        except FileNotFoundError:
            continue
        if abandoned:
            shutil.rmtree(draft, ignore_errors=True)


def _draw(draft: Path, world: World) -> None:
    split: Split = {}
    digest = hashlib.sha256()
    for part, per_class in IMAGES_PER_CLASS.items():
        split[part] = _draw_part(draft, world, part, per_class, digest)
    paths = sorted(path for rows in split.values() for path, _, _ in rows)
    (draft / SUMS_FILE).write_text("".join(f"{sha256_of(draft / path)}  {path}\n" for path in paths))
    (draft / SPLIT_FILE).write_text(json.dumps(split))
    manifest = {
        "world": world.name,
        "drawing_version": DRAWING_VERSION,
        "images_per_class": IMAGES_PER_CLASS,
        "classes": [spec.name for spec in class_set(world.class_set)],
        "pixels_sha256": digest.hexdigest(),
        "split_sha256": sha256_of(draft / SPLIT_FILE),
        "sums_sha256": sha256_of(draft / SUMS_FILE),
    }
    (draft / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")


def _draw_part(
    draft: Path, world: World, part: str, per_class: int, digest: hashlib._Hash
) -> list[tuple[str, int, str]]:
    from PIL import Image  # this and torch are needed only when a world is drawn

    from datasets.shapes_world.draw import draw_world

    classes = class_set(world.class_set)
    images, labels = draw_world(world, part, per_class)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    digest.update(pixels.tobytes())
    rows = []
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        name = classes[label].name
        place = Path(part, name.replace(" ", "_"), f"{number % per_class:03d}.png")
        (draft / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(draft / place, compress_level=1)
        rows.append((place.as_posix(), label, name))
    return rows


def _publish(draft: Path, final: Path) -> None:
    """Flush the draft to disk and give it its final name, unless another process was first."""
    for path in (draft, *draft.rglob("*")):
        _flush(path)
    try:
        draft.rename(final)
    except OSError:
        if not final.exists():
            raise
    _flush(final.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
