"""What a file must be before it gets its name: its hashes, its length, and content of the kind that its name says."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20
_WEB_PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Expected:
    """Hashes in hex and length in bytes; "" and 0 where they are not known."""

    sha256: str = ""
    md5: str = ""
    bytes: int = 0

    @property
    def known(self) -> bool:
        """Whether a hash decides, so that nothing else has to be trusted."""
        return bool(self.sha256 or self.md5)

    def fault(self, path: Path, name: str) -> tuple[str, str]:
        """What is wrong with the file at ``path`` that shall be called ``name`` ("": nothing), and its SHA-256."""
        size = path.stat().st_size
        if self.bytes and size != self.bytes:
            return f"has {size} bytes instead of {self.bytes}", ""
        sha256, md5 = _hashes(path, with_md5=bool(self.md5))
        if self.sha256 and sha256 != self.sha256.lower():
            return f"has the SHA-256 {sha256} instead of {self.sha256.lower()}", sha256
        if self.md5 and md5 != self.md5.lower():
            return f"has the MD5 {md5} instead of {self.md5.lower()}", sha256
        return ("" if self.known else _wrong_kind(path, name)), sha256


def is_web_page(name: str) -> bool:
    """Whether a file of that name may be a page of HTML."""
    return name.lower().endswith(_WEB_PAGES)


def _hashes(path: Path, with_md5: bool) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            if with_md5:
                md5.update(chunk)
    return sha256.hexdigest(), md5.hexdigest()


def _wrong_kind(path: Path, name: str) -> str:
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) and not is_web_page(name):
        return "is a web page, not the file"
    lower = name.lower()
    if lower.endswith(".json"):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            return f"is no whole JSON file ({error})"
    if lower.endswith(".zip") and not zipfile.is_zipfile(path):
        return "is no whole zip archive"
    if lower.endswith(".tar") and not tarfile.is_tarfile(path):
        return "is no tar archive"
    if lower.endswith((".tgz", ".gz")):
        try:
            with gzip.open(path) as unzipped:
                unzipped.read(1)
        except (OSError, EOFError, zlib.error):
            return "is no gzip archive"
    return ""
