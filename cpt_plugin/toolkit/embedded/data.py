"""Data items, data sets, few-shot draws and split files."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpt_plugin._paths import from_home
from cpt_plugin.atomic import atomic_write_text
from cpt_plugin.data.split_file import read_entries
from cpt_plugin.errors import DataError


class Datum:
    """One image with its label (from 0), domain and class name.

    Raises:
        DataError: the file does not exist.
    """

    __slots__ = ("_classname", "_domain", "_impath", "_label")

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not Path(impath).is_file():
            raise DataError(
                f"image not found: {impath or '(empty path)'} (class {classname!r}); check the data folder "
                "(DATASET.ROOT, --root): the data set may be missing, unpacked elsewhere or incomplete"
            )
        self._impath, self._label, self._domain, self._classname = str(impath), label, domain, classname

    @classmethod
    def of_present_file(cls, impath: str, label: int, classname: str) -> Datum:
        """One image whose file is known to be there."""
        item = cls.__new__(cls)
        item._impath, item._label, item._domain, item._classname = impath, label, 0, classname
        return item

    @property
    def impath(self) -> str:
        return self._impath

    @property
    def label(self) -> int:
        return self._label

    @property
    def domain(self) -> int:
        return self._domain

    @property
    def classname(self) -> str:
        return self._classname

    def __repr__(self) -> str:
        return (
            f"Datum({self.impath!r}, label={self.label}, domain={self.domain}, classname={self.classname!r})"
        )


class UprightDatum(Datum):
    """One image that is turned as its EXIF orientation says: as a viewer shows it, not as it is stored."""

    __slots__ = ()
    upright = True


def is_upright(item: Any) -> bool:
    """Whether an item's image is turned as its EXIF orientation says when it is read."""
    return getattr(item, "upright", False)


def read_upright(items: Iterable[Any]) -> str:
    """Which items' images are read upright, as a key of what is kept of them: "" for none."""
    marks = "".join("01"[is_upright(item)] for item in items)
    return marks if "1" in marks else ""


class DatasetBase:
    """Labelled training, validation and test items of one data set.

    Class names come from all parts together, so a class that is missing in one of them shifts no label.

    Raises:
        DataError: a label has two names, or a label below the largest has none.
    """

    dataset_dir: str = ""
    domains: Sequence[str] = ()

    def __init__(
        self,
        train_x: Sequence[Any] | None = None,
        train_u: Sequence[Any] | None = None,
        val: Sequence[Any] | None = None,
        test: Sequence[Any] | None = None,
    ) -> None:
        self._train_x, self._train_u = list(train_x or ()), list(train_u or ())
        self._val, self._test = list(val or ()), list(test or ())
        self._lab2cname = class_names([*self._train_x, *self._val, *self._test])

    @property
    def train_x(self) -> list[Any]:
        return self._train_x

    @property
    def train_u(self) -> list[Any]:
        return self._train_u

    @property
    def val(self) -> list[Any]:
        return self._val

    @property
    def test(self) -> list[Any]:
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        return list(self._lab2cname.values())

    @property
    def num_classes(self) -> int:
        return len(self._lab2cname)

    def replace_train(self, items: Sequence[Any]) -> None:
        """Puts other training items in place; classes and their names stay as they were."""
        self._train_x = list(items)

    def generate_fewshot_dataset(
        self, *data_sources: Sequence[Any], num_shots: int = -1, repeat: bool = False, rng: Any = None
    ) -> Any:
        return generate_fewshot_dataset(*data_sources, num_shots=num_shots, repeat=repeat, rng=rng)


def class_names(items: Iterable[Any]) -> dict[int, str]:
    """Returns ``{label: class name}``, ordered by label, over all given items.

    Raises:
        DataError: no items, two names for one label, or a gap in the labels.
    """
    names: dict[int, str] = {}
    for item in items:
        known = names.setdefault(item.label, item.classname)
        if known != item.classname:
            raise DataError(
                f"label {item.label} is called both {known!r} and {item.classname!r}; fix the split"
            )
    if not names:
        raise DataError("the data set is empty; check the data folder (DATASET.ROOT, --root) and the split")
    missing = sorted(set(range(max(names) + 1)) - names.keys())
    if missing or min(names) < 0:
        raise DataError(
            f"labels must run from 0 without gaps, but {missing or min(names)} breaks that; fix the split"
        )
    return dict(sorted(names.items()))


def generate_fewshot_dataset(
    *data_sources: Sequence[Any], num_shots: int = -1, repeat: bool = False, rng: random.Random | None = None
) -> Any:
    """Draws ``num_shots`` items a class from each source, classes in order of first appearance.

    With ``rng = random.Random(seed)`` the draw is the one that CoOp makes with the same seed, and one
    generator passed to two calls continues as CoOp does (train, then val).

    Args:
        data_sources: lists of items; each is drawn from on its own.
        num_shots: items a class; below 1 returns the sources untouched.
        repeat: draw with replacement where a class has too few items, instead of taking what is there.
        rng: source of randomness; Python's global one when not given, as in Dassl.

    Returns:
        One list for one source, else a list of lists.
    """
    if num_shots < 1:
        return data_sources[0] if len(data_sources) == 1 else list(data_sources)
    draw: Any = rng or random
    output = []
    for source in data_sources:
        by_label: dict[int, list[Any]] = {}
        for item in source:
            by_label.setdefault(item.label, []).append(item)
        chosen: list[Any] = []
        for items in by_label.values():
            if len(items) >= num_shots:
                chosen.extend(draw.sample(items, num_shots))
            else:
                chosen.extend(draw.choices(items, k=num_shots) if repeat else items)
        output.append(chosen)
    return output[0] if len(output) == 1 else output


def read_split(path: str | Path, root: str | Path) -> tuple[list[Datum], list[Datum], list[Datum]]:
    """Reads ``{"train": [[relative path, label, class name], ...], "val": ..., "test": ...}``.

    Raises:
        DataError: the file is missing or malformed, a path leaves ``root``, or images do not exist (how many, and
            the first of them).
    """
    train, val, test = present_items(read_entries(Path(path)), root, path)
    return train, val, test


def present_items(
    parts: Sequence[Sequence[tuple[str, int, str]]], root: str | Path, source: str | Path, kind: type[Datum] = Datum
) -> list[list[Datum]]:
    """Items of lists of ``(path below root, label, class name)``, after one look into every folder.

    Args:
        parts: the lists, for instance train, val and test.
        root: folder to which the paths are relative.
        source: where the lists come from, for the message.
        kind: of the items.

    Raises:
        DataError: images do not exist: how many, and the first of them.
    """
    listed: dict[str, set[str]] = {}
    base, missing, output = str(root), [], []
    for rows in parts:
        output.append([kind.of_present_file(os.path.join(base, path), label, name) for path, label, name in rows])
        for item in output[-1]:
            folder, file = os.path.split(item.impath)
            if folder not in listed:
                listed[folder] = _files_in(folder)
            # A file system that ignores case may list a name otherwise than a split spells it.
            if file not in listed[folder] and not os.path.isfile(item.impath):
                missing.append(item.impath)
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{len(missing)} of the {sum(map(len, parts))} images that {source} names are not found: {shown}; the "
            "data set is incomplete or unpacked elsewhere: complete it, or correct the data folder (DATASET.ROOT, "
            f"--root){_namesake(missing[0])}"
        )
    return output


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def _namesake(path: str) -> str:
    """Of an image that is not there: which file of that name but another ending is; "" for none."""
    folder, file = os.path.split(path)
    stem = os.path.splitext(file)[0].casefold()
    names = sorted(name for name in _files_in(folder) if os.path.splitext(name)[0].casefold() == stem)
    return f". There is {names[0]} instead: these are other files, or other spellings of the names" if names else ""


def save_split(
    train: Sequence[Any], val: Sequence[Any], test: Sequence[Any], path: str | Path, root: str | Path
) -> None:
    """Writes the three parts in the format of :func:`read_split`, paths relative to ``root``, atomically."""
    parts: Mapping[str, Sequence[Any]] = {"train": train, "val": val, "test": test}
    rows = {
        part: [[Path(d.impath).relative_to(root).as_posix(), d.label, d.classname] for d in items]
        for part, items in parts.items()
    }
    atomic_write_text(path, json.dumps(rows))


def split_hash(dataset: Any, root: str | Path, names: Sequence[str] | None = None) -> str:
    """Returns the SHA-256 (hex) of the sorted (path, label, class name) of train, val and test.

    Paths are relative to ``root`` where they lie in it, so the hash does not change when the data move. A data
    set that knows a hash of its images has it in ``content_hash``; it is taken in.

    Args:
        dataset: the data set.
        root: the data folder.
        names: of the classes by label, to tell which hash the images would have under them; by default their own.
    """
    base = from_home(root).absolute()

    def name_of(item: Any) -> str:
        return item.classname if names is None else names[item.label]

    rows: dict[str, Any] = {
        part: sorted([_relative(item.impath, base), item.label, name_of(item)] for item in items or ())
        for part, items in (("train", dataset.train_x), ("val", dataset.val), ("test", dataset.test))
    }
    if content := getattr(dataset, "content_hash", ""):
        rows["content"] = content
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _relative(path: str, base: Path) -> str:
    absolute = Path(path).absolute()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.as_posix()
