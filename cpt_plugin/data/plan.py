"""What is missing and where it comes from, one piece a file to fetch; standard library only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from cpt_plugin.data.manifest import Manifest, Source
from cpt_plugin.data.reach import silent
from cpt_plugin.data.unpack import is_archive
from cpt_plugin.errors import DataError

DRIVE = "https://drive.usercontent.google.com/download"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One file to fetch, by the program or by hand.

    Attributes:
        gives: files and folders, of those that are missing, that are there afterwards; absolute.
        file: where the file goes; absolute. The folder, where only a person knows which files these are.
        url: what a person opens.
        address: what a program asks for.
        kind: ``download``, ``drive`` (Google Drive) or ``hand`` (only a person can get it, or its source is dead).
        folder, holds: of an archive, where it is unpacked and the paths below that it brings; None and empty else.
        sha256, md5, bytes: as published; "" and 0 where they are not known.
        fallback: page on Google Drive of the same file; "" where there is none.
        dead, instead: why the source answers no more, and what else works.
    """

    gives: tuple[Path, ...]
    file: Path
    url: str
    address: str
    kind: str
    folder: Path | None = None
    holds: tuple[str, ...] = ()
    sha256: str = ""
    md5: str = ""
    bytes: int = 0
    fallback: str = ""
    dead: str = ""
    instead: str = ""

    @property
    def ways(self) -> tuple[Piece, ...]:
        """The piece from each of its sources, in the order in which they are asked."""
        first = replace(self, fallback="")
        if not self.fallback:
            return (first,)
        return first, replace(first, url=self.fallback, address=drive_address(self.fallback), kind="drive")

    def answered(self, unanswered: Collection[str]) -> tuple[Piece, ...]:
        """Those :attr:`ways` whose hosts are not among those that do not answer; a file that is here needs none."""
        return tuple(way for way in self.ways if self.here or urlsplit(way.address).hostname not in unanswered)

    @property
    def here(self) -> bool:
        """Whether the file is there already, so that at most it has to be unpacked."""
        return self.file.is_file()

    @property
    def automatic(self) -> bool:
        """Whether the program can try to fetch it."""
        return self.here or self.kind != "hand"


def pieces(manifest: Manifest, root: Path, own_split: bool = False) -> list[Piece]:
    """What must be fetched so that nothing of a data set is missing below ``root``.

    With ``own_split`` the published split file is not wanted, but everything that a split of our own is made from is.
    """
    missing = set(manifest.lacking(root, own_split))
    made = (_piece(manifest, source, root, missing) for source in manifest.sources)
    return [piece for piece in made if piece.gives]


def weights_piece(file: Path, address: str, sha256: str) -> Piece:
    """The file of a model's weights."""
    return Piece(gives=(file,), file=file, url=address, address=address, kind="download", sha256=sha256)


def drive_id(url: str) -> str:
    """The id of a file on Google Drive, from the address of its page.

    Raises:
        DataError: the address is of another form.
    """
    found = re.search(r"/file/d/([\w-]+)|[?&]id=([\w-]+)", url)
    if found is None:
        raise DataError(f"{url} is no address of a file on Google Drive")
    return found[1] or found[2]


def drive_address(url: str) -> str:
    """What a program asks for to get the file of a page on Google Drive."""
    return f"{DRIVE}?id={drive_id(url)}&export=download&confirm=t"


def hosts(wanted: Iterable[Piece]) -> list[str]:
    """Addresses ``scheme://host[:port]`` that are asked for the pieces that are not here, each once."""
    addresses = [way.address for piece in wanted if piece.automatic and not piece.here for way in piece.ways]
    return list(dict.fromkeys(f"{urlsplit(a).scheme}://{urlsplit(a).netloc}" for a in addresses))


def obstacle(wanted: Iterable[Piece]) -> str:
    """Why not all of these can be had by the program now; "" when they can, as far as can be told before."""
    wanted = list(wanted)
    if hand := [piece for piece in wanted if not piece.automatic]:
        return f"{', '.join(piece.file.name for piece in hand)} can only be had by hand"
    unanswered = silent(hosts(wanted))
    return "" if all(piece.answered(unanswered) for piece in wanted) else by_reason(unanswered)


def by_reason(unanswered: dict[str, str]) -> str:
    """Hosts and why they do not answer, those of one reason together."""
    reasons = dict.fromkeys(unanswered.values())
    return "; ".join(f"{why}: {', '.join(h for h in unanswered if unanswered[h] == why)}" for why in reasons)


def _piece(manifest: Manifest, source: Source, root: Path, missing: set[str]) -> Piece:
    hand = bool(source.dead) or source.kind == "manual"
    address = source.url
    if source.kind == "gdrive":
        address = drive_address(source.url)
    name = Path(urlsplit(source.url).path).name
    if source.kind == "gdrive":
        name = f"{Path(source.gives[0]).name}.zip"
    file, folder = root / source.into, None
    holds: tuple[str, ...] = ()
    if source.into.endswith("/") and is_archive(name):
        inside = Path(manifest.folder) in (Path(source.into), *Path(source.into).parents)
        below = source.into if inside else manifest.folder
        folder = root / below
        file = root / manifest.folder / name
        relative = (Path(path).relative_to(below).as_posix() for path in source.gives)
        holds = tuple("" if path == "." else path for path in relative)
    return Piece(
        gives=tuple(root / path for path in source.gives if path in missing),
        file=file,
        url=source.url,
        address=address,
        kind="hand" if hand else "drive" if source.kind == "gdrive" else "download",
        folder=folder,
        holds=holds,
        sha256=source.sha256,
        md5=source.md5,
        bytes=source.bytes,
        fallback=source.fallback,
        dead=source.dead,
        instead=source.instead,
    )
