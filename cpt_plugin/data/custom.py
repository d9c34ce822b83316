"""Data sets that a person describes by a yaml of their own; standard library only.

The engine reads the yaml; here only what can be known to be wrong before anything is installed is looked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from cpt_plugin._paths import from_home, resolved
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.methods import is_embedded

IMAGE_FOLDER, IMAGE_LIST = "ImageFolder", "ImageList"
"""``DATASET.NAME`` of the two kinds: a folder a class, or a CSV file of paths and labels."""
OWN_KINDS = (IMAGE_FOLDER, IMAGE_LIST)
YAML_SUFFIXES = (".yaml", ".yml")
LIST_SUFFIX = ".csv"
PART_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call the parts of a data set, in small letters."""


def own_data(text: str, base: Path, taken: Collection[str]) -> Path | None:
    """The yaml, image folder or list that a data set on the command line is given by, None where it is no path.

    Args:
        text: a word that ends with .yaml or .csv or holds a slash is a path, and so is the name of a folder that is
            there, unless a data set of this repository has it.
        base: the folder that a relative path counts from.
        taken: names of the data sets of this repository.

    Raises:
        ConfigError: there is no such file or folder, or its name cannot stand for the data set in the output folder.
    """
    path = resolved(text, base)
    is_folder = text not in taken and not is_embedded(text) and path.is_dir()
    if "/" not in text and not text.endswith((*YAML_SUFFIXES, LIST_SUFFIX)) and not is_folder:
        return None
    if not path.is_dir() and not (path.is_file() and path.suffix in (*YAML_SUFFIXES, LIST_SUFFIX)):
        raise ConfigError(
            f"there is no file {path}: a data set is a name, or the path of a .yaml, of a folder with a sub-folder a "
            "class, or of a .csv (docs/custom-data.md)"
        )
    name = own_name(path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        another = "; or describe it by a .yaml of another name" if path.is_dir() else ""
        raise ConfigError(
            f"{path}: results are kept under the name {name!r}; use letters, digits, '-', '_' and '.' only{another}"
        )
    if name in taken:
        raise ConfigError(
            f"{path} is called as the data set '{name}' of this repository, whose results it would mix with: "
            "give it another name"
        )
    return path


def own_name(path: Path) -> str:
    """The name under which the results on a person's own data are kept."""
    return path.name if path.is_dir() else path.stem


def own_settings(path: Path) -> dict[str, str]:
    """Configuration keys of data that are given by a folder or a list, without a yaml; they lie in :func:`own_root`."""
    kind, key = (IMAGE_FOLDER, "FOLDER") if path.is_dir() else (IMAGE_LIST, "LIST")
    return {"DATASET.NAME": kind, f"DATASET.{key}": path.name}


def own_root(path: Path | None) -> Path | None:
    """The data folder of data that are given by a folder or a list: the one above, whatever ``--root`` says.

    So one data set has the same settings and paths, however it is spelled. None for data given otherwise.
    """
    return None if path is None or is_yaml(path) else path.parent


def found_names(value: str, places: Iterable[Path]) -> Path:
    """The file of ``DATASET.CLASS_NAMES`` on the command line, in the first of the folders that holds it.

    Raises:
        ConfigError: the value can be no path.
        DataError: none of them does.
    """
    tried = list(dict.fromkeys(resolved(value, place) for place in places))
    for path in tried:
        if path.is_file():
            return path
    looked = ", nor ".join(map(str, tried))
    raise DataError(
        f"DATASET.CLASS_NAMES is {value!r}, but there is no file {looked}; relative paths count from where the "
        "command is typed, then from the data folder"
    )


def is_yaml(path: Path) -> bool:
    """Whether data are described by a yaml, not given by their folder or list."""
    return path.suffix in YAML_SUFFIXES and not path.is_dir()


def check_own_files(yaml: Path, root: Path) -> None:
    """Make sure that what an ImageFolder's or ImageList's yaml points to exists; anything else passes.

    Args:
        yaml: the file; only keys that are written plainly are seen.
        root: the data folder, which relative paths count from.

    Raises:
        ConfigError: the yaml cannot be read.
        DataError: a folder, a list or one of names does not exist.
    """
    try:
        text = yaml.read_text(encoding="utf-8") if yaml.is_file() and is_yaml(yaml) else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{yaml} cannot be read ({error}): it must be a yaml in UTF-8") from error
    if _value(text, "NAME") not in OWN_KINDS:
        return
    for key, there in (("FOLDER", os.path.isdir), ("LIST", os.path.isfile), ("CLASS_NAMES", os.path.isfile)):
        value = _value(text, key)
        if value and not there(path := located(value, root)):
            kind = "folder" if key == "FOLDER" else "file"
            raise DataError(
                f"DATASET.{key} of {yaml} is {value!r}, but there is no {kind} {path}; relative paths count from the "
                "data folder (--root, DATA_ROOT)"
            )


def located(value: str, root: Path) -> Path:
    """Absolute path of what a configuration names, relative to the data folder unless it is absolute."""
    return (root / from_home(value)).absolute()


def _value(text: str, key: str) -> str:
    found = re.search(rf"(?m)^[^#\n]*?\b{key}\s*:\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s,}}#]+))", text)
    return next((group for group in found.groups() if group is not None), "") if found else ""
