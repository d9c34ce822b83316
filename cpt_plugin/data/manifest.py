"""What is known of each data set, read from ``assets/datasets/NAME.json``; standard library only.

A manifest says where the files lie below the data root, where they come from and under which terms, how many classes
and images there must be, how the classes are called, and which prompt template CoOp uses. A figure or name is
*verified* when it was read off the published files themselves; one that was only copied from a paper is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath

from cpt_plugin._names import nearest
from cpt_plugin._schema import decode
from cpt_plugin.errors import ConfigError, DataError

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "datasets"
UNFINISHED = ".cpt-unfinished"
"""Name of a file that stands beside data while an archive's content is being moved in."""
KINDS = ("zip", "tar", "file", "gdrive", "manual")
"""Of a source: an archive to unpack, a file to keep, one on Google Drive, or something only a person can get."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something to download, or to get by hand.

    Attributes:
        gives: files and folders below the data root that are there afterwards.
        kind: one of :data:`KINDS`; a file on Google Drive whose ``into`` ends with ``/`` is an archive.
        url: where it is; for ``gdrive`` the address of the file's page, for ``manual`` that of the web page.
        into: below the data root, the folder to unpack in (ends with ``/``) or the file to write.
        fallback: page on Google Drive of the same file, asked when ``url`` cannot be had; "" for none.
        sha256, md5: published checksum in hex; "" where none is published. Without a SHA-256 only https is allowed.
        bytes: size of the download as far as known, 0 otherwise.
        dead: why and since when it is known not to answer any more; "" where it is not known to be dead.
        instead: what else works, also when it is dead or only by hand.
    """

    gives: tuple[str, ...]
    kind: str
    url: str
    into: str
    fallback: str = ""
    sha256: str = ""
    md5: str = ""
    bytes: int = 0
    dead: str = ""
    instead: str = ""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Classes, and images of each part; None where it is not known.

    ``verified`` figures must hold; others, from ``source``, give a warning where they do not.
    """

    classes: int
    train: int | None = None
    val: int | None = None
    test: int | None = None
    verified: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """Names by label, as prompts use them; empty where they are not known."""

    names: tuple[str, ...] = ()
    verified: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One data set.

    Attributes:
        name: on the command line, and of its yaml.
        registered: ``DATASET.NAME``.
        title, paper, licence: for people.
        template: CoOp's prompt, ``{}`` standing for the class name.
        folder: its folder below the data root.
        images: folders of images, below ``folder``.
        split: the field's split file, below ``folder``; "" where the images' own lists serve.
        files: other files that the loader reads, below ``folder``.
        md5: of these, published checksums in hex of files that come in an archive.
        lists: of these, by part, the text files with a line ``IMAGE LABEL`` for each image.
        parts: by part, the folder whose images it is, where neither a split file nor lists divide them.
        aliases, image_aliases: other names under which its folder, and its folder of images, are spread.
        own_split: whether a seeded split of our own can be made where the published one cannot be had.
        test_only: no training images: for evaluation of what was trained elsewhere.
        long_tailed: comes with its own long tail.
    """

    name: str
    registered: str
    title: str
    paper: str
    licence: str
    template: str
    folder: str
    images: tuple[str, ...]
    split: str = ""
    files: tuple[str, ...] = ()
    md5: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    image_aliases: tuple[str, ...] = ()
    own_split: bool = False
    test_only: bool = False
    long_tailed: bool = False
    counts: Counts
    class_names: ClassNames = ClassNames()
    sources: tuple[Source, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """Everything that must be there, relative to the data root: image folders, split file, other files."""
        parts = [*self.images, *filter(None, [self.split]), *self.files]
        return tuple(f"{self.folder}/{part}" for part in parts)

    @property
    def base(self) -> str:
        """Folder below the data root to which the paths in the split file or the lists are relative."""
        below = PurePosixPath(self.folder, *self.images[:1])
        return str(below.parent if len(self.images) > 1 else below)

    def source_of(self, path: str) -> Source | None:
        """Where a file or folder below the data root comes from; None where no source gives it."""
        given = ((source, each) for source in self.sources for each in source.gives)
        return next((source for source, each in given if path == each or path.startswith(f"{each}/")), None)

    def missing(self, root: Path) -> tuple[str, ...]:
        """What of :attr:`wanted` is not below ``root``.

        A folder that is empty, was half moved in, or holds nothing but a folder of its own name counts as missing.

        Raises:
            DataError: a folder on the way may not be read.
        """
        try:
            return tuple(path for path in self.wanted if not _present(root, path))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}; see the permissions") from error


    def lacking(self, root: Path, own_split: bool = False) -> tuple[str, ...]:
        """What a run needs and is not below ``root``, relative to it.

        With ``own_split`` the published split file is not wanted, but everything that a split of our own is made from.

        Raises:
            DataError: a folder on the way may not be read.
        """
        missing = self.missing(root)
        if not (own_split and self.split):
            return missing
        split = f"{self.folder}/{self.split}"
        wanted = dict.fromkeys([*self.wanted, *(path for source in self.sources for path in source.gives)])
        return tuple(path for path in wanted if path != split and (path in missing or not (root / path).exists()))


def plain_name(name: str) -> str:
    """A name without what differs between spellings of it: case, and what is neither letter nor digit."""
    return "".join(character for character in name.casefold() if character.isalnum())


def manifest_names() -> list[str]:
    """Names of all data sets that have a manifest."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def manifest_of(name: str) -> Manifest:
    """The manifest of a data set by its name on the command line.

    Raises:
        ConfigError: there is none of that name (the nearest one is given).
    """
    names = manifest_names()
    if name not in names:
        raise ConfigError(f"unknown data set '{name}'; nearest: '{nearest(name, names)}'; known: {', '.join(names)}")
    return _read(name)


def registered_manifest(registered: str) -> Manifest | None:
    """The manifest whose ``registered`` is a ``DATASET.NAME``; None for data sets without one."""
    return next((m for m in map(_read, manifest_names()) if m.registered == registered), None)


@cache
def _read(name: str) -> Manifest:
    path = FOLDER / f"{name}.json"
    try:
        manifest: Manifest = decode(Manifest, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"the manifest {path} cannot be read ({error}): restore the file") from error
    for source in manifest.sources:
        if source.kind not in KINDS:
            raise DataError(f"the manifest {path} has a source of kind {source.kind!r}; known: {', '.join(KINDS)}")
        for address in filter(None, (source.url, source.fallback)):
            if not (address.startswith("https://") or (source.sha256 and address.startswith("http://"))):
                raise DataError(
                    f"the manifest {path} has the source {address}, whose content nothing vouches for: give an address "
                    "of https, or the file's SHA-256"
                )
    return manifest


def _present(root: Path, path: str) -> bool:
    place = root / path
    if place.is_dir():
        entries = list(islice((entry for entry in place.iterdir() if not entry.name.startswith(".")), 2))
        nested = len(entries) == 1 and plain_name(entries[0].name) == plain_name(place.name) and entries[0].is_dir()
        unfinished = any((root / above / UNFINISHED).exists() for above in (Path(path), *Path(path).parents))
        return bool(entries) and not nested and not unfinished
    return place.is_file()
