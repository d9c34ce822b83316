"""Archives of images, unpacked whole or not at all, and never outside their folder; standard library only."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cpt_plugin.data.manifest import UNFINISHED
from cpt_plugin.data.progress import Progress, readable
from cpt_plugin.errors import DataError
from cpt_plugin.locking import only_process

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_ENTRIES = 5_000_000
MOST_RATIO = 200
"""Unpacked bytes per byte of the archive, beyond ``FREE_BYTES``; photographs in JPEG have about 1."""
FREE_BYTES = 64 << 20
_CHUNK = 1 << 20
_DEPTH = 3
_BREADTH = 1000
_END_OF_TAR = 1024
_BROKEN: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error),
    *(EOFError, KeyError, NotImplementedError),
)
with contextlib.suppress(ImportError):  # not every Python has it
    from lzma import LZMAError

    _BROKEN += (LZMAError,)


def is_archive(name: str) -> bool:
    """Whether a file of that name is one that :func:`unpack` takes apart."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, holds: Sequence[str] = ()) -> None:
    """Unpack a zip or tar archive (plain or gzip) into ``folder``, beside what is there.

    Everything goes to a hidden folder first and is moved when it is whole, so that what a killed unpacking leaves is
    never taken for the data. Only files and folders are unpacked: absolute names, names with ``..``, symbolic links
    and devices are refused, and so is an archive that grows beyond reason. What macOS adds is left out.

    Args:
        archive: the file; its name says what it is.
        folder: where to; made when it is not there.
        holds: paths below ``folder`` that must be there afterwards; nothing else is kept. Where the archive has them
            inside folders of its own, those outer folders are dropped; "" stands for the content of its single
            outermost folder. Where they are in archives within the archive, those are unpacked too. Without any,
            everything is kept.

    Raises:
        DataError: it is damaged, unsafe or another archive; or there is not room for it.
    """
    staging = folder / f".unpacking-{archive.name}"
    try:
        with only_process(folder, f"unpacking-{archive.name}"):
            shutil.rmtree(staging, ignore_errors=True)
            try:
                staging.mkdir()
                _extract(archive, staging)
                inner = _inner(staging, archive, holds)
                os.sync()
                _move(inner, folder, [path for path in holds if path])
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{archive} is damaged ({reason}): remove it and get it again") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"the disk of {folder} is full: make room" if full else f"{archive} cannot be unpacked: {error}"
        raise DataError(what) from error


_AS_DATA: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {"set_attrs": False}
"""How a member is extracted whose name and kind were found harmless; Python before 3.11.4 has no filters."""


def _extract(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            _extract_zip(opened, archive, folder, _Budget(archive, size))
        return
    if not archive.name.lower().endswith(SUFFIXES):
        raise DataError(f"{archive} is no archive that can be unpacked: one of {', '.join(SUFFIXES)} is")
    with archive.open("rb") as raw, Progress(f"unpacking {archive.name}", size) as progress:
        budget = _Budget(archive, size)
        budget.check_room(size)
        with _decompressed(raw, archive, size) as stream, tarfile.open(fileobj=stream, mode="r|") as opened:
            for member in opened:
                _extract_member(opened, member, archive, folder, budget)
                opened.members.clear()  # type: ignore[attr-defined]  # a stream keeps every header otherwise
                progress.to(raw.tell())
            while stream.read(_CHUNK):  # to the end, where gzip keeps its checksum
                pass


@contextlib.contextmanager
def _decompressed(raw: BinaryIO, archive: Path, size: int) -> Iterator[BinaryIO]:
    if archive.name.lower().endswith("gz"):
        with gzip.open(raw) as stream:
            yield stream  # type: ignore[misc]
        return
    raw.seek(max(0, size - _END_OF_TAR))
    if any(raw.read()):
        raise tarfile.ReadError("its end is missing")
    raw.seek(0)
    yield raw


def _extract_member(
    opened: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, folder: Path, budget: _Budget
) -> None:
    path = _safe(member.name, archive)
    if not (member.isreg() or member.isdir() or member.islnk()):
        raise DataError(f"{archive} holds a link or a device, {member.name!r}: refused; is it the right file?")
    if member.islnk():
        _safe(member.linkname, archive)
    budget.take(member.size if member.isreg() else 0)
    if _wanted(path):
        opened.extract(member, folder, **_AS_DATA)


def _extract_zip(opened: zipfile.ZipFile, archive: Path, folder: Path, budget: _Budget) -> None:
    entries = opened.infolist()
    total = sum(entry.file_size for entry in entries)
    for entry in entries:
        _safe(entry.filename, archive)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive} holds a link or a device, {entry.filename!r}: refused; is it the right file?")
        if entry.flag_bits & 1:
            raise DataError(f"{archive} is protected by a password: unpack it by hand into {folder.parent}")
        budget.take(entry.file_size)
    budget.check_room(total)
    done = 0
    with Progress(f"unpacking {archive.name}", total) as progress:
        for entry in entries:
            path = folder / _safe(entry.filename, archive)
            if not _wanted(path.relative_to(folder)):
                continue
            if entry.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(entry) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            done += entry.file_size
            progress.to(done)


class _Budget:
    """What an archive of that size may hold."""

    def __init__(self, archive: Path, size: int) -> None:
        self._archive = archive
        self._bytes = MOST_RATIO * size + FREE_BYTES
        self._entries = MOST_ENTRIES

    def take(self, size: int) -> None:
        self._bytes -= size
        self._entries -= 1
        if self._bytes < 0 or self._entries < 0:
            raise DataError(f"{self._archive} would grow to many times its size: refused; is it the right file?")

    def check_room(self, size: int) -> None:
        free = shutil.disk_usage(self._archive.parent).free
        if size > free:
            place = self._archive.parent
            raise DataError(f"{self._archive.name} needs {readable(size)}, but {place} has {readable(free)}: make room")


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"{archive} would write outside its folder, {name!r}: refused; is it the right file?")
    return path


def _wanted(path: Path | PurePosixPath) -> bool:
    return "__MACOSX" not in path.parts and not path.name.startswith("._") and path.name != ".DS_Store"


def _inner(staging: Path, archive: Path, holds: Sequence[str]) -> Path:
    """The folder of the archive whose content is wanted."""
    named = [path for path in holds if path]
    if holds and not named:
        folder = staging
        while len(entries := list(folder.iterdir())) == 1 and entries[0].is_dir():
            folder = entries[0]
        return folder
    for unpack_inside in (True, False):
        levels = [[staging]]
        for _ in range(_DEPTH):
            levels.append([entry for folder in levels[-1] for entry in _folders(folder)][:_BREADTH])
        for folder in chain(*levels):
            if all((folder / path).exists() for path in named):
                return folder
        inside = [file for folder in chain(*levels[:2]) for file in sorted(folder.iterdir()) if is_archive(file.name)]
        for file in inside if unpack_inside else []:
            _extract(file, file.parent)
            file.unlink()
    raise DataError(f"{archive} does not hold {', '.join(named)}: is it the right file?")


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _move(source: Path, folder: Path, holds: Sequence[str]) -> None:
    """Move what is wanted in; while only some of it is there, a marker says so."""
    marker = folder / UNFINISHED
    marker.touch()
    for path in holds:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        _merge(source / path, folder / path)
    if not holds:
        _merge(source, folder)
    marker.unlink()


def _merge(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _merge(entry, target / entry.name)
    else:
        os.replace(source, target)
