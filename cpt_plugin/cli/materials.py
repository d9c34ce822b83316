"""Checks, before anything is installed, that images and CLIP weights are there; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpt_plugin import openai_weights
from cpt_plugin.backbones import MICRO, check_name
from cpt_plugin.errors import DataError

__all__ = ["LAYOUTS", "MICRO", "Layout", "check_backbone", "check_images", "missing_weights"]


@dataclass(frozen=True)
class Layout:
    """Where a data set's images lie below the data root, and where they and CoOp's split file come from."""

    images: tuple[str, ...]
    split: str = ""
    source: str = ""


LAYOUTS = {
    "eurosat": Layout(
        ("eurosat/2750",), "eurosat/split_zhou_EuroSAT.json", "http://madm.dfki.de/files/sentinel/EuroSAT.zip"
    ),
}


def check_images(dataset: str, root: Path) -> None:
    """Make sure that a real data set's folders and split file are below `root`.

    Raises DataError saying what is missing, where to put them and where to get them.
    """
    layout = LAYOUTS.get(dataset, Layout((dataset,)))
    wanted = [*layout.images, *filter(None, [layout.split])]
    missing = [path for path in wanted if not (root / path).exists()]
    if not missing:
        return
    lines = [f"'{dataset}' is not complete; missing: {', '.join(str(root / path) for path in missing)}"]
    if layout.source and missing != [layout.split]:
        lines.append(f"  images:     {layout.source}, unpacked to {root / layout.images[0]}")
    if layout.split in missing:
        lines.append(f"  split file: {root / layout.split} (from CoOp's DATASETS.md)")
    lines.append("  elsewhere:  give the folder above it with --root FOLDER or DATA_ROOT=FOLDER")
    lines.append("  no data:    'shapes' needs none, e.g. bash scripts/run.sh maple_cpt shapes 0.25")
    raise DataError("\n".join(lines))


def check_backbone(name: str, download: bool = True) -> None:
    """Make sure that a backbone is known, and that its weights are on this machine or may be fetched.

    Raises ConfigError for an unknown name, DataError saying where to put missing weights.
    """
    check_name(name)
    if not download and missing_weights(name) is not None:
        raise DataError(openai_weights.instructions(name, "are not there"))


def missing_weights(name: str) -> tuple[Path, str, str] | None:
    """Where the weights of a backbone belong, their address and SHA-256; None if they are there.

    None as well for weights that only the open_clip package can find.
    """
    if name not in openai_weights.SHA256 or openai_weights.find(name) is not None:
        return None
    return openai_weights.cache_file(name), openai_weights.address(name), openai_weights.SHA256[name]
