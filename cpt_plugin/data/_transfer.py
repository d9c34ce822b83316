"""One attempt at a download: a request, its redirects, and the bytes that come."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from cpt_plugin import __version__
from cpt_plugin.data._expected import Expected, is_web_page
from cpt_plugin.data._partial import Partial, Remote
from cpt_plugin.data.progress import Progress, readable, say
from cpt_plugin.errors import DataError

SCHEMES = ("http", "https")
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_PASSING = (408, 425, 429)
_CHUNK = 1 << 16
_SPARE_BYTES = 16 << 20


class TryAgain(Exception):
    """This attempt failed in a way that may pass."""


class _NoAddress(Exception):
    pass


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try.

    Attributes:
        connect: for a connection, at most 5.
        stall: for the next bytes.
        attempts: in a row that bring nothing new.
        most_attempts: in all.
        pause: before the second attempt; doubled each time up to ``longest_pause``.
    """

    connect: float = 5.0
    stall: float = 30.0
    attempts: int = 5
    most_attempts: int = 100
    pause: float = 1.0
    longest_pause: float = 30.0


def transfer(url: str, partial: Partial, destination: Path, expected: Expected, patience: Patience) -> None:
    """Bring ``partial`` to its whole length.

    A part that is there is continued when the file on the server is provably the same (by ETag or date), or when a
    known hash will tell.

    Raises:
        TryAgain: it was cut short, or the server had a passing trouble; what came is kept.
        DataError: trying again would not help.
    """
    try:
        import requests
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError as error:
        raise DataError(f"to download {url} the package {error.name} is needed: pip install requests") from error
    old = partial.remote if partial.remote is not None and partial.remote.url == url else None
    offset = partial.size if old is not None and old.total and (old.validator or expected.known) else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": f"cpt-plugin/{__version__}"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if old is not None and old.validator:
            headers["If-Range"] = old.validator
    try:
        with _answer(url, headers, patience) as response:
            _begin(response, url, partial, offset, expected, destination)
            _receive(response, partial, destination.name, expected)
    except _NoAddress as error:
        raise DataError(f"{url} or where it leads is no address: {_reason(error)}") from error
    except (requests.RequestException, HTTPError, ConnectionError, TimeoutError) as error:
        raise TryAgain(_reason(error)) from error


@contextmanager
def _answer(url: str, headers: dict[str, str], patience: Patience) -> Iterator[Any]:
    """The answer at the end of all redirects, which may lead to other hosts but not away from http and https."""
    import requests

    with requests.Session() as session:
        place = url
        for _ in range(_MOST_REDIRECTS + 1):
            if _parts(place).scheme not in SCHEMES:
                raise DataError(f"{url} leads to {place}: only http and https are followed; report the address")
            timeout = (patience.connect, patience.stall)
            try:
                response = session.get(place, headers=headers, timeout=timeout, stream=True, allow_redirects=False)
            except ValueError as error:
                raise _NoAddress(str(error)) from None
            target = response.headers.get("Location", "")
            if response.status_code not in _REDIRECTS or not target:
                with response:
                    yield response
                return
            response.close()
            before, place = place, _joined(place, target)
            if _parts(before).hostname != _parts(place).hostname:
                say(f"  {_parts(before).hostname} leads to {_parts(place).hostname}")
        raise DataError(f"{url} leads round in a circle of redirects: try later, or get the file by hand")


def _joined(address: str, target: str) -> str:
    try:
        return urljoin(address, target)
    except ValueError as error:
        raise _NoAddress(f"{target}: {error}") from None


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise _NoAddress(f"{address}: {error}") from None


def _begin(
    response: Any, url: str, partial: Partial, offset: int, expected: Expected, destination: Path
) -> None:
    """Judge the answer by its head, and open the part for what follows."""
    status, head = response.status_code, response.headers
    if status in _PASSING or status >= 500:
        raise TryAgain(f"the server answers {status} {response.reason}")
    if status == 416:
        partial.discard()
        raise TryAgain("the server has fewer bytes than are here: from the start")
    if status not in (200, 206):
        raise DataError(f"{url} answers {status} {response.reason}: the file is not there, or not for everybody")
    if head.get("Content-Type", "").lower().startswith("text/html") and not is_web_page(destination.name):
        raise DataError(f"{url} answers with a web page instead of {destination.name}: open it in a browser to see why")
    length = head.get("Content-Length", "")
    total = int(length) if length.isdigit() else 0
    if status == 206:
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", head.get("Content-Range", "").strip())
        old = partial.remote
        if not offset or part is None or old is None or (int(part[1]), int(part[2])) != (offset, old.total):
            partial.discard()
            raise TryAgain("the server answers with another part than was asked for: from the start")
        total = old.total
    chunked = "chunked" in head.get("Transfer-Encoding", "").lower()
    if not total and not chunked and not length and not expected.known:
        raise DataError(f"{url} does not say how long the file is, so that it cannot be known to be whole: by hand")
    if total and expected.bytes and total != expected.bytes:
        raise TryAgain(f"the server offers {total} bytes instead of {expected.bytes}")
    kept = offset if status == 206 else 0
    free = shutil.disk_usage(destination.parent).free + (partial.size - kept)
    if total - kept > free - _SPARE_BYTES:
        raise DataError(
            f"{destination.name} needs {readable(total - kept)}, but {destination.parent} has {readable(free)} free: "
            f"make room, or use another disk"
        )
    if offset and not kept:
        say("  the file on the server has changed, or the server cannot continue: from the start")
    rest = f"{readable(total - kept)} " if total else ""
    say(f"  {destination.name}: {'the other ' if kept else ''}{rest}from {urlsplit(response.url).hostname}")
    if kept:
        partial.resume()
        return
    partial.begin(Remote(url, _validator(head), total))


def _receive(response: Any, partial: Partial, title: str, expected: Expected) -> None:
    assert partial.remote is not None
    total = partial.remote.total
    with Progress(title, total, partial.size) as progress:
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            partial.append(chunk)
            progress.to(partial.size)
            if partial.size > (total or expected.bytes or partial.size):
                partial.discard()
                raise TryAgain("the server sent more than it had announced")
    if not partial.size:
        raise TryAgain("the server sends an empty file")
    if total and partial.size < total:
        raise TryAgain(f"the connection was closed after {partial.size} of {total} bytes")
    partial.finish(partial.size)


def _validator(head: Any) -> str:
    tag = head.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else head.get("Last-Modified", "")


def _reason(error: Exception) -> str:
    """The innermost cause of a failed attempt, in one line of at most 200 characters."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:200]
