"""Checks, before anything is installed, that images and CLIP weights are there; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cpt_plugin import openai_weights
from cpt_plugin._names import nearest
from cpt_plugin.errors import ConfigError, DataError

MICRO = "micro"


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


def check_backbone(name: str) -> None:
    """Make sure that a backbone is known and its weights are on this machine.

    Raises ConfigError for an unknown name, DataError saying where to put missing weights.
    """
    if name == MICRO or Path(name).expanduser().is_file():
        return
    if name not in openai_weights.SHA256:
        names = [MICRO, *openai_weights.SHA256]
        raise ConfigError(
            f"unknown backbone '{name}'; nearest: '{nearest(name, names)}'; "
            f"possible: {', '.join(names)}, or the path of a weights file"
        )
    file = openai_weights.cache_file(name)
    if not file.is_file():
        raise DataError(
            f"the weights of CLIP {name} are not there: {file}\n"
            f"  get them:   mkdir -p {file.parent} && curl -o {file} {openai_weights.address(name)}\n"
            f"  or give:    --backbone FILE (weights elsewhere), --backbone {MICRO} (embedded; 'shapes' only)"
        )
