"""Files from the net that are there only when they are whole and what they should be."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from urllib.parse import urlsplit

from cpt_plugin.data._expected import Expected
from cpt_plugin.data._partial import Partial
from cpt_plugin.data._transfer import SCHEMES, Patience, TryAgain, transfer
from cpt_plugin.data.pins import Pin, pin, pinned, pins_file
from cpt_plugin.data.progress import say
from cpt_plugin.errors import DataError
from cpt_plugin.locking import only_process

__all__ = ["Patience", "checked", "download", "vouch"]


def download(
    url: str,
    destination: Path,
    sha256: str = "",
    md5: str = "",
    bytes: int = 0,
    *,
    patience: Patience = Patience(),  # noqa: B008 (frozen)
) -> Path:
    """Fetch ``url`` to ``destination`` and return that.

    What was fetched of it before is continued. The file appears under its name only when it is whole: with the
    published hash or, where there is none, with the hash that was pinned when it was first fetched. A file that is
    there already is checked in the same way, and fetched again when it is not right. Of several processes one fetches;
    the others wait for it.

    Args:
        url: an address of http or https; redirects to other hosts are followed and reported.
        destination: name of the file; its folder is made.
        sha256, md5: published hash in hex, "" where there is none.
        bytes: its exact length; 0 where it is not known.
        patience: time limits and number of attempts.

    Raises:
        DataError: it could not be had, or is not what it should be; what came stays in ``NAME.part`` where it can be
            continued.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise DataError(f"{url} cannot be downloaded: only addresses of http and https can")
    try:
        with only_process(destination.parent, destination.name):
            remembered = None if sha256 else pinned(destination)
            expected = Expected(sha256 or (remembered.sha256 if remembered else ""), md5, bytes)
            if _right(destination, url, expected, pin_it=not sha256 and remembered is None):
                return destination
            with Partial(destination) as partial:
                digest = _fetch(url, destination, partial, expected, patience, pinned=remembered is not None)
                if not sha256 and remembered is None:
                    _pin(destination, Pin(digest, partial.size, url), what="no hash is published")
                partial.publish()
    except OSError as error:
        raise DataError(_explained(error, destination)) from error
    return destination


def checked(url: str, destination: Path, arrived: Path, sha256: str = "", md5: str = "", bytes: int = 0) -> Path:
    """Give a file that came by other means its name ``destination``, under the same conditions as :func:`download`.

    Raises:
        DataError: ``arrived`` is not what it should be; it is removed.
    """
    remembered = None if sha256 else pinned(destination)
    expected = Expected(sha256 or (remembered.sha256 if remembered else ""), md5, bytes)
    fault, digest = expected.fault(arrived, destination.name)
    if fault:
        arrived.unlink()
        raise DataError(_refusal(url, destination, fault, pinned=remembered is not None))
    if not sha256 and remembered is None:
        _pin(destination, Pin(digest, arrived.stat().st_size, url), what="no hash is published")
    arrived.replace(destination)
    return destination


def vouch(url: str, file: Path, sha256: str = "", md5: str = "", bytes: int = 0) -> None:
    """Check a file that a person has put in its place under the same conditions; it is left there in any case.

    Raises:
        DataError: it is not what it should be.
    """
    remembered = None if sha256 else pinned(file)
    expected = Expected(sha256 or (remembered.sha256 if remembered else ""), md5, bytes)
    fault, digest = expected.fault(file, file.name)
    if fault:
        raise DataError(f"{file} is not the file that it should be: it {fault}. Replace it, or unpack it yourself")
    if not sha256 and remembered is None:
        _pin(file, Pin(digest, file.stat().st_size, url), what="no hash is published")


def _right(destination: Path, url: str, expected: Expected, pin_it: bool) -> bool:
    """Whether the file is there and what it should be; one that nobody vouches for is pinned."""
    if not destination.is_file():
        return False
    fault, digest = expected.fault(destination, destination.name)
    if fault:
        say(f"{destination} {fault}: it is replaced")
        return False
    if pin_it:
        _pin(destination, Pin(digest, destination.stat().st_size, url), what="it was there, and no hash is published")
    return True


def _fetch(
    url: str, destination: Path, partial: Partial, expected: Expected, patience: Patience, pinned: bool
) -> str:
    """Bring the part to its whole length and check it; returns its SHA-256."""
    tries = barren = most = 0
    pause, wrong, reason = patience.pause, "", ""
    if partial.size:
        say(f"  {destination.name}: continuing after {partial.size} bytes")
    while True:
        try:
            if not partial.whole or (partial.remote and partial.remote.url != url):
                transfer(url, partial, destination, expected, patience)
            fault, digest = expected.fault(partial.path, destination.name)
            if not fault:
                return digest
            partial.discard()
            if digest == wrong:
                raise DataError(_refusal(url, destination, fault, pinned))
            wrong, reason = digest, f"what came {fault}"
        except TryAgain as error:
            reason = str(error)
            partial.close()
        tries += 1
        barren = 0 if partial.size > most else barren + 1
        most = max(most, partial.size)
        if barren >= patience.attempts or tries >= patience.most_attempts:
            raise DataError(
                f"{url} could not be downloaded: {reason}.\n"
                f"  Given again, the same command goes on where it stopped ({partial.size} bytes of it are here); "
                f"or get the file by hand to {destination}"
            )
        pause = patience.pause if barren == 0 else min(pause * 2, patience.longest_pause)
        say(f"  {destination.name}: {reason}; trying again in {pause:.0f} s")
        time.sleep(pause)


def _refusal(url: str, destination: Path, fault: str, pinned: bool) -> str:
    if not pinned:
        return f"{url} is not the published file: it {fault}. Get the right one by hand to {destination}"
    return (
        f"{url} does not give the file of the first time any more: it {fault}.\n"
        f"  If the new one is wanted, remove the entry '{destination.name}' from {pins_file(destination)}"
    )


def _pin(destination: Path, value: Pin, what: str) -> None:
    pin(destination, value)
    say(f"  {destination.name}: {what}; pinned SHA-256 {value.sha256[:16]}... in {pins_file(destination)}")


def _explained(error: OSError, destination: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {destination.parent} is full: make room; the same command then goes on where it stopped"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{destination.parent} cannot be written ({error.strerror}): give another folder, or change its rights"
    return f"{destination} cannot be written: {error}"
