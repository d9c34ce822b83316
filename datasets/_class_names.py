"""The words that CLIP reads for a class of a person's own: its folder or label, or what a list of names says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from cpt_plugin._names import some
from cpt_plugin.data.custom import located
from cpt_plugin.data.imagenet import imagenet_classes
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit.embedded.logs import FILE_ONLY
from datasets._root import data_root
from datasets._table_file import read_table, refuse_lines

_LOG = logging.getLogger("cpt_plugin")
_WORDNET_ID = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"\d+\s*[._ -]\s*[^\W\d]")
_NO_VALUE = ("nan", "none", "null", "na", "n/a", "nil", "<na>")
"""What programs write for a value that is missing."""


def names_of(labels: Iterable[str], cfg: Any, source: Path) -> dict[str, str]:
    """The name in words of every class, by its label (the name of its folder, or the label in a list).

    That is what ``DATASET.CLASS_NAMES`` says where it is given; otherwise ImageNet's name for one of its WordNet ids,
    and the label itself for others, with a warning where CLIP cannot read it.

    Args:
        labels: of all classes.
        cfg: the configuration.
        source: the folder or list, for messages.

    Raises:
        DataError: the list of names is damaged or is one of other classes; two classes read the same or one has no
            name; there are fewer than two.
    """
    ordered = sorted(set(labels))
    if cfg.DATASET.CLASS_NAMES:
        names = read_names(located(cfg.DATASET.CLASS_NAMES, data_root(cfg)), ordered, source)
    else:
        names = _resolved(ordered, source)
    check_names(names, source)
    _warn_of_unreadable(names, source)
    return names


def read_names(file: Path, labels: Sequence[str], source: Path) -> dict[str, str]:
    """Names by label from a CSV file with the columns label and name, a line for each class.

    Raises:
        DataError: the file cannot be read; a label stands there twice, is missing, or is none of ``labels``.
    """
    names: dict[str, str] = {}
    wrong = []
    for line, cells in read_table(file, "the names of classes", ("label", "name")):
        label, name = cells["label"], cells["name"]
        if fault := _fault(label, name, names):
            wrong.append(f"line {line}: {fault}")
        names[label] = name
    refuse_lines(file, wrong)
    missing, unknown = [name for name in labels if name not in names], sorted(names.keys() - set(labels))
    if missing or unknown:
        raise DataError(
            f"{file} must name each of the {len(labels)} classes of {source} once; it lacks {some(missing)}, and has "
            f"besides {some(unknown)} (the column label holds the names of the folders, or the labels of the list)"
        )
    return {label: names[label] for label in labels}


def check_names(names: Mapping[str, str], source: Path) -> None:
    """Raise DataError for fewer than two classes, one without a name, or two that CLIP would read as the same words."""
    empty = [label for label, name in names.items() if not _words(name)]
    if empty:
        raise DataError(
            f"{source} has classes whose names leave nothing to read ('_' is a space): {some(list(map(repr, empty)))}; "
            "rename them, or give them names (DATASET.CLASS_NAMES, docs/custom-data.md)"
        )
    spelled: dict[str, str] = {}
    for label, name in sorted(names.items()):
        first = spelled.setdefault(_words(name).casefold(), label)
        if first != label:
            read = f", both {name!r}," if name not in (first, label) else ","
            raise DataError(
                f"{source} has the classes {first!r} and {label!r}{read} which read the same: rename or merge them"
            )
    if len(spelled) < 2:
        raise DataError(f"{source} has {'one class' if spelled else 'no class'}: at least two are needed")


def _words(name: str) -> str:
    return " ".join(normalize("NFC", name).replace("_", " ").split())


def _fault(label: str, name: str, names: Mapping[str, str]) -> str:
    if not label or not name:
        return f"no {'name' if label else 'label'}"
    return f"{label!r} has the name {names[label]!r} already" if label in names else ""


def _resolved(labels: Sequence[str], source: Path) -> dict[str, str]:
    """The labels themselves, but for WordNet ids of ImageNet's classes, which are logged."""
    known = imagenet_classes()
    names = {label: known.get(label, label) for label in labels}
    changed = [f"{label} = {name}" for label, name in names.items() if label != name]
    if changed:
        said = f"{source}: {len(changed)} of {len(names)} classes are called by WordNet ids, and get ImageNet's names:"
        _LOG.warning(f"{said} {some(changed)}")
        _LOG.info(f"{said} {', '.join(changed)}", extra=FILE_ONLY)
    return names


def _warn_of_unreadable(names: Mapping[str, str], source: Path) -> None:
    found: dict[str, list[str]] = {}
    numbered = all(_NUMBERED.match(name) for name in names.values())
    for label, name in names.items():
        if kind := _unreadable(name, numbered):
            found.setdefault(kind, []).append(label)
    for kind, labels in found.items():
        _LOG.warning(
            f"{source}: {len(labels)} of {len(names)} class names are {kind}, which CLIP cannot read as words: "
            f"{some(labels)}; text features of them mean little. Rename the classes, or give a CSV file of names with "
            f"lines such as {labels[0]},{_example(labels[0])} as DATASET.CLASS_NAMES (docs/custom-data.md)"
        )


def _unreadable(name: str, numbered: bool) -> str:
    """What kind of name it is that CLIP cannot read, "" for one that it can."""
    words = _words(name)
    if _WORDNET_ID.match(words):
        return "WordNet ids that are none of ImageNet's" if _WORDNET_ID.fullmatch(words) else "led by WordNet ids"
    if words.casefold() in _NO_VALUE:
        return "what programs write for a missing value"
    if not any(letter.isalpha() for letter in words):
        return "numbers" if any(letter.isdigit() for letter in words) else "without letters"
    return "led by numbers" if numbered else ""


def _example(label: str) -> str:
    """The words in a label, as an example of a name."""
    rest = _words(re.sub(r"^(n\d{8}|\d+)[\W_]*", "", label))
    return "NAME" if _unreadable(rest, numbered=False) else rest
