"""A data set that is on the disk, but not where it is looked for; standard library only.

Unpacked one folder too deep, under another name, or beside the folder that it belongs in: what is found is named, with
the commands that move it. Only folders of the data set's own names are looked into, a few levels deep.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

from cpt_plugin._names import some
from cpt_plugin.data.manifest import Manifest, plain_name
from cpt_plugin.data.split_file import read_entries
from cpt_plugin.errors import DataError

_DEPTH = 4
_MOST_FOLDERS = 300
_MOST_ENTRIES = 2000
_SAMPLES = 3


@dataclass(frozen=True)
class Misplaced:
    """Parts of a data set that were found in other places.

    Attributes:
        name: of the data set.
        moves: what was found, and where it belongs.
        commands: what a person types to move it, in this order.
        root_instead: a data root below which it is whole as it lies; None for none.
    """

    name: str
    moves: tuple[tuple[Path, Path], ...]
    commands: tuple[str, ...]
    root_instead: Path | None = None

    @property
    def summary(self) -> str:
        """What was found and where it belongs, on one line."""
        found = some([f"{source} (looked for at {target})" for source, target in self.moves])
        return f"'{self.name}' is here, but not where it is looked for: {found}"

    @property
    def text(self) -> str:
        """A few lines for a person: what was found, the commands, and what else works."""
        lines = [self.summary]
        if self.commands:
            lines += ["move it, then give the same command again:", *(f"  {command}" for command in self.commands)]
        if self.root_instead is not None:
            lines.append(f"{'or give' if self.commands else 'give'} the data folder --root {self.root_instead}")
        return "\n".join(lines)


def refuse_misplaced(manifest: Manifest, root: Path, own_split: bool = False) -> None:
    """Raise DataError, with the commands that mend it, where missing parts of a data set are found elsewhere."""
    found = misplaced(manifest, root, own_split)
    if found is not None:
        raise DataError(found.text)


def misplaced(manifest: Manifest, root: Path, own_split: bool = False) -> Misplaced | None:
    """Where the missing parts of a data set are; None where nothing is missing, or nothing of it was found.

    Args:
        manifest: the data set.
        root: data root.
        own_split: the published split file is not wanted, but what a split of our own is made from is.
    """
    missing = manifest.lacking(root, own_split)
    own = root / manifest.folder
    if not missing or (own.exists() and not own.is_dir()):
        return None
    outside = _root_too_deep(manifest, root, own_split)
    if outside is not None:
        return outside
    for place in _places(manifest, root):
        tree = dict(_tree(place))
        moves = _by_name(manifest, root, tree, missing)
        moves |= _by_content(manifest, root, tree, [path for path in missing if path not in moves], moves)
        if moves:
            whole = _common_place(manifest, root, moves)
            pairs = tuple((source, root / path) for path, source in sorted(moves.items()))
            if whole is not None:
                pairs = ((whole, root / manifest.folder),)
            commands = tuple(_commands(manifest, root, moves, whole))
            return Misplaced(manifest.name, pairs, commands, _instead(manifest, root, place))
    return None


def _root_too_deep(manifest: Manifest, root: Path, own_split: bool) -> Misplaced | None:
    """For a data root that is the data set's own folder, or one in it."""
    for above in islice(root.parents, 2):
        inside = above / manifest.folder
        if root.is_relative_to(inside) and not manifest.lacking(above, own_split):
            return Misplaced(manifest.name, ((inside, root / manifest.folder),), (), above)
    return None


def _instead(manifest: Manifest, root: Path, place: Path) -> Path | None:
    other = place.parent
    return other if other != root and place.name == manifest.folder and not manifest.missing(other) else None


def _places(manifest: Manifest, root: Path) -> Iterator[Path]:
    """The data set's own folder, then those of its names in the data root and one level below."""
    own = root / manifest.folder
    if own.is_dir():
        yield own
    names = {plain_name(name) for name in (manifest.folder, manifest.name, manifest.registered, *manifest.aliases)}
    first, _ = _entries(root)
    second = [root / name / below for name in first for below in _entries(root / name)[0]]
    for folder in [*(root / name for name in first), *second]:
        if plain_name(folder.name) in names and folder != own and not folder.is_relative_to(own):
            yield folder


def _tree(place: Path) -> Iterator[tuple[Path, tuple[list[str], list[str]]]]:
    """Folders at and below a place, the upper ones first, each with the names of its folders and files."""
    level, left = [place], _MOST_FOLDERS
    for _ in range(_DEPTH):
        below: list[Path] = []
        for folder in level[:left]:
            folders, files = _entries(folder)
            yield folder, (folders, files)
            below += [folder / name for name in folders]
        left -= len(level)
        if left <= 0:
            return
        level = below


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of folders and files directly in a folder, sorted; of a huge folder the first ones, and no hidden ones."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MOST_ENTRIES):
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        return [], []
    return sorted(folders), sorted(files)


_Tree = Mapping[Path, tuple[list[str], list[str]]]


def _by_name(manifest: Manifest, root: Path, tree: _Tree, missing: Iterable[str]) -> dict[str, Path]:
    """Missing paths found under their own last names, or under another name that a manifest knows."""
    images = {f"{manifest.folder}/{path}" for path in manifest.images}
    found = {}
    for path in missing:
        wanted = PurePosixPath(path).parts
        others = {plain_name(name) for name in manifest.image_aliases} if path in images else set()
        best = (0, 0)
        for folder, (folders, files) in tree.items():
            for name in folders if path in images else [*folders, *files]:
                place = folder / name
                fit = _same_end(place.relative_to(root).parts, wanted)
                if fit == (0, 0) and plain_name(name) in others:
                    fit = (1, 0)
                if fit > best and place != root / path and (name in files or any(_entries(place))):
                    best, found[path] = fit, place
    return found


def _same_end(parts: Sequence[str], wanted: Sequence[str]) -> tuple[int, int]:
    """How many of the last parts of a path are the wanted ones: but for their spelling, and letter by letter."""
    pairs = list(zip(parts[::-1], wanted[::-1], strict=False))
    alike = list(takewhile(lambda pair: plain_name(pair[0]) == plain_name(pair[1]), pairs))
    return len(alike), len(list(takewhile(lambda pair: pair[0] == pair[1], alike)))


def _by_content(
    manifest: Manifest, root: Path, tree: _Tree, missing: Iterable[str], found: Mapping[str, Path]
) -> dict[str, Path]:
    """Missing image folders found by images that the split file names, or by folders that are called as classes."""
    images = {f"{manifest.folder}/{images}" for images in manifest.images}
    missing = [path for path in missing if path in images]
    if not missing:
        return {}
    split = f"{manifest.folder}/{manifest.split}"
    named = _named_images(found.get(split, root / split)) if manifest.split else []
    classes = {plain_name(name) for name in manifest.class_names.names}
    moves: dict[str, Path] = {}
    for path in missing:
        below = (root / path).relative_to(root / manifest.base)
        samples = [name.relative_to(below) for name in named if name.is_relative_to(below)][:_SAMPLES]
        for folder, (folders, _) in tree.items():
            here = sum(plain_name(name) in classes for name in folders)
            holds_samples = samples and all((folder / sample).is_file() for sample in samples)
            if folder != root / path and (holds_samples or (not samples and 2 * here > max(4, len(folders)))):
                moves[path] = folder
                break
    return moves


def _named_images(split: Path) -> list[PurePosixPath]:
    try:
        return [PurePosixPath(entry.path) for part in read_entries(split) for entry in part]
    except DataError:
        return []


def _commands(manifest: Manifest, root: Path, moves: Mapping[str, Path], whole: Path | None) -> Iterator[str]:
    """Shell commands that move everything; only empty folders are ever removed."""
    own = root / manifest.folder
    if whole is not None and not own.exists():
        yield _line("mv", whole, own)
        return
    if whole is not None and whole.parent == own and _entries(own) == ([whole.name], []):
        yield _out_of(own, whole)
        return
    groups: dict[Path, list[Path]] = {}
    for path, source in sorted(moves.items()):
        target = root / path
        if source.is_relative_to(target):
            yield _out_of(target, source)
        elif target.is_relative_to(source):
            inner = f"{shlex.quote(str(source))}/*/"
            new = source.with_name(f"{source.name}.new")
            yield f"{_line('mkdir', new)} && mv {inner} {shlex.quote(str(new))}/ && {_line('mv', new, target)}"
        elif source.name == target.name and not target.exists():
            groups.setdefault(target.parent, []).append(source)
        else:
            first = [_line("mkdir", "-p", target.parent)] if not target.parent.exists() else []
            first += [_line("rmdir", target)] if target.is_dir() else []
            yield " && ".join([*first, _line("mv", source, target)])
    for parent, sources in groups.items():
        make = [] if parent.exists() else [_line("mkdir", "-p", parent)]
        yield " && ".join([*make, f"{_line('mv', *sources)} {shlex.quote(str(parent))}/"])


def _common_place(manifest: Manifest, root: Path, moves: Mapping[str, Path]) -> Path | None:
    """The folder that holds everything that was found as the data set's own folder should."""
    places = set()
    for path, source in moves.items():
        inside = PurePosixPath(path).relative_to(manifest.folder)
        if PurePosixPath(*source.parts[-len(inside.parts) :]) != inside or source.is_relative_to(root / path):
            return None
        places.add(source.parents[len(inside.parts) - 1])
    return places.pop() if len(places) == 1 else None


def _out_of(outer: Path, inner: Path) -> str:
    """Put a folder in the place of one that it lies in."""
    aside = outer.with_name(f"{outer.name}.outer")
    moved = _line("mv", aside / inner.relative_to(outer), outer)
    return f"{_line('mv', outer, aside)} && {moved} && {_line('rmdir', aside)}"


def _line(*words: str | Path) -> str:
    return shlex.join(map(str, words))
