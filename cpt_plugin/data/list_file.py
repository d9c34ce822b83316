"""Lists of images in text files, a line ``PATH LABEL`` each; standard library only."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cpt_plugin.errors import DataError


def read_listed(path: Path) -> list[tuple[str, str]]:
    """Path and label of each line; lines that begin with ``#`` are comments.

    A path without an ending, as in FGVC-Aircraft's lists, is that of a ``.jpg``.

    Raises:
        DataError: the file cannot be read, a line has no path or label, or a path leaves the folder.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read ({error}): get it again") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        image, _, label = line.strip().partition(" ")
        pure = PurePosixPath(image)
        if not label.strip() or pure.is_absolute() or ".." in pure.parts:
            raise DataError(f"the list {path} has {line!r} in line {number}, which is no image with its label")
        rows.append((str(pure) if pure.suffix else f"{pure}.jpg", label.strip()))
    return rows
