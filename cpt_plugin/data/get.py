"""Getting a data set: each missing piece downloaded, checked, unpacked; what only a person can get is said."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from cpt_plugin.data.download import Patience, checked, download, vouch
from cpt_plugin.data.instructions import announcement, get_command, other_ways, screen
from cpt_plugin.data.layout import refuse_misplaced
from cpt_plugin.data.manifest import Manifest
from cpt_plugin.data.plan import Piece, by_reason, drive_id, hosts, pieces
from cpt_plugin.data.progress import readable, say
from cpt_plugin.data.reach import silent
from cpt_plugin.data.unpack import unpack
from cpt_plugin.errors import DataError
from cpt_plugin.locking import only_process


def get(
    manifest: Manifest,
    root: Path,
    own_split: bool = False,
    keep_archives: bool = False,
    patience: Patience = Patience(),  # noqa: B008 (frozen)
) -> None:
    """Get everything of a data set that is missing below ``root``, as far as a program can.

    Given again, it continues where it stopped. With ``own_split`` the published split file is left out.

    Raises:
        DataError: something is still missing; the text says what, and how to get it by hand. Or it is there, but not
            where it is looked for.
    """
    refuse_misplaced(manifest, root, own_split)
    wanted = pieces(manifest, root, own_split)
    unanswered = silent(hosts(wanted))
    troubles = [by_reason(unanswered)] if unanswered else []
    if any(_can_come(piece, unanswered) for piece in wanted):
        try:
            with only_process(root / manifest.folder, f"get-{manifest.name}"):
                ready = [piece for piece in pieces(manifest, root, own_split) if _can_come(piece, unanswered)]
                say("\n".join([f"'{manifest.name}' (licence: {manifest.licence}):", *announcement(ready)]))
                troubles += _fetch_all([piece.answered(unanswered) for piece in ready], keep_archives, patience)
        except OSError as error:
            raise DataError(f"{root / manifest.folder} cannot be written: {error}; see --root") from error
    left = pieces(manifest, root, own_split)
    if left:
        reason = f"could not be had by the program alone ({'; '.join(troubles) or 'see below'})"
        again = f"again: {get_command(manifest.name, root, own_split)}"
        raise DataError(screen(f"'{manifest.name}'", reason, left, again, other_ways(manifest, left, backbone=False)))


def _can_come(piece: Piece, unanswered: Collection[str]) -> bool:
    return piece.automatic and bool(piece.answered(unanswered))


def _fetch_all(ready: list[tuple[Piece, ...]], keep_archives: bool, patience: Patience) -> list[str]:
    """Get these pieces, each from the first of its sources that has it; returns what failed, which was said."""
    troubles = []
    for ways in ready:
        for piece in ways:
            try:
                fetch(piece, keep_archives, patience)
                break
            except DataError as error:
                say(f"  {error}")
                if piece is ways[-1] or piece.here:
                    troubles.append(f"{piece.file.name}: see above")
                    break
                say(f"  trying the next source of {piece.file.name}")
    return troubles


def fetch(piece: Piece, keep_archives: bool = False, patience: Patience = Patience()) -> None:  # noqa: B008 (frozen)
    """Get one piece, or take the file that is in its place; check it, and unpack it when it is an archive.

    An archive that was downloaded now is removed when it is unpacked, unless ``keep_archives``.

    Raises:
        DataError: it could not be had, or is not what it should be.
    """
    was_here = piece.here
    if was_here:
        vouch(piece.url, piece.file, piece.sha256, piece.md5, piece.bytes)
    elif not (piece.kind == "drive" and _by_gdown(piece)):
        download(piece.address, piece.file, piece.sha256, piece.md5, piece.bytes, patience=patience)
    if piece.folder is not None:
        say(f"  unpacking {piece.file.name} in {piece.folder}")
        unpack(piece.file, piece.folder, piece.holds)
        size = readable(piece.file.stat().st_size)
        if was_here or keep_archives:
            say(f"  {piece.file} ({size}) is not needed any more")
        else:
            piece.file.unlink()
    lacking = [str(path) for path in piece.gives if not path.exists()]
    if lacking:
        raise DataError(f"{piece.file.name} came, but {', '.join(lacking)} is not there: is it the right file?")


def _by_gdown(piece: Piece) -> bool:
    """Fetch a file of Google Drive with gdown; False where that is not installed."""
    try:
        import gdown
    except ModuleNotFoundError:
        return False
    piece.file.parent.mkdir(parents=True, exist_ok=True)
    arrived = piece.file.with_name(f"{piece.file.name}.gdown")
    try:
        came = gdown.download(
            id=drive_id(piece.url), output=str(arrived), quiet=not sys.stderr.isatty(), resume=True
        )
    except Exception as error:  # gdown has several kinds, and passes those of requests on
        raise DataError(f"gdown cannot get {piece.url}: {' '.join(str(error).split())}") from error
    if came is None or not arrived.is_file():
        raise DataError(f"gdown cannot get {piece.url}: Google Drive may have had too many requests; try later")
    checked(piece.url, piece.file, arrived, piece.sha256, piece.md5, piece.bytes)
    return True
