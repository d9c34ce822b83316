"""CSV files that people write: lists of images, names of classes; what is wrong with one is said with its remedy."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cpt_plugin._names import nearest, some
from cpt_plugin.data import IMAGE_SUFFIXES
from cpt_plugin.errors import DataError

_OTHER_FILES = {
    b"\x1f\x8b": "it is compressed (gzip): unpack it",
    b"PK\x03\x04": "it is an Excel workbook or a zip file: save the table as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "it is an Excel workbook: save the table as CSV in UTF-8",
    codecs.BOM_UTF16_LE: "it is UTF-16 (Excel's 'Unicode text'): save it as CSV in UTF-8",
    codecs.BOM_UTF16_BE: "it is UTF-16 (Excel's 'Unicode text'): save it as CSV in UTF-8",
}
"""What a file is that begins with certain bytes."""
_SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path"),
    "label": ("class", "classname", "class_name", "category", "target", "species", "folder", "wnid", "id"),
    "split": ("set", "part", "subset", "fold"),
    "name": ("class", "classname", "class_name", "words", "text"),
}
_BYTE_ORDER_MARK = "\ufeff"
_MARKS = {";": "semicolons", "\t": "tabs", "|": "'|'"}


class Line(NamedTuple):
    """A line of a table: its number in the file, and its cells by column, without spaces around them."""

    number: int
    cells: Mapping[str, str]


def read_table(file: Path, what: str, needed: Sequence[str], optional: Sequence[str] = ()) -> list[Line]:
    """The lines of a CSV file (UTF-8, commas, a header) that are not empty.

    Names of columns may be written in capitals and with spaces around them.

    Args:
        file: it.
        what: what it is, for messages.
        needed: its columns.
        optional: those that it may have besides.

    Raises:
        DataError: it cannot be read, is no such file, has other columns, or a line has another number of cells.
    """
    try:
        reader = csv.reader(io.StringIO(_text(file, what), newline=""), strict=True, skipinitialspace=True)
        header = next(reader, [])
        columns = [name.strip(f"{_BYTE_ORDER_MARK} ").lower() for name in header]
        _check_columns(file, header, columns, needed, optional)
        lines, wrong = [], []
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(columns):
                wrong.append(f"line {reader.line_num}: not as many cells as columns")
            else:
                named = dict(zip(columns, map(str.strip, cells), strict=True))
                lines.append(Line(reader.line_num, named))
    except csv.Error as error:
        raise DataError(
            f"cannot read {what} {file}: line {reader.line_num}: {error}; it must be a CSV file in UTF-8, and cells "
            'with commas or quotes stand in quotes ("a, b")'
        ) from error
    refuse_lines(file, wrong)
    if not lines:
        raise DataError(f"{file} has no line below its header")
    return lines


def refuse_lines(file: Path, wrong: Sequence[str]) -> None:
    """Raise DataError for lines that are wrong: how many, and the first three."""
    if wrong:
        many = f"{len(wrong)} lines of {file} are" if len(wrong) > 1 else f"1 line of {file} is"
        them = "them" if len(wrong) > 1 else "it"
        raise DataError(f"{many} wrong: {some(wrong)}; correct or remove {them}")


def _text(file: Path, what: str) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {what} {file}: {error.strerror}") from error
    for begin, reason in _OTHER_FILES.items():
        if data.startswith(begin):
            raise DataError(f"cannot read {what} {file}: {reason}")
    if b"\0" in data.partition(b"\n")[0]:
        raise DataError(f"cannot read {what} {file}: {_OTHER_FILES[codecs.BOM_UTF16_LE]}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 1].hex()
        raise DataError(
            f"cannot read {what} {file}: line {line} is not UTF-8 (byte 0x{found}); save it as CSV in UTF-8"
        ) from error


def _check_columns(
    file: Path, header: Sequence[str], columns: Sequence[str], needed: Sequence[str], optional: Sequence[str]
) -> None:
    known = [*needed, *optional]
    if set(needed) <= set(columns) <= set(known) and len(set(columns)) == len(columns):
        return
    if len(header) == 1 and (mark := next((mark for mark in _MARKS if mark in header[0]), "")):
        raise DataError(f"the columns of {file} are separated by {_MARKS[mark]}, but must be by commas: save it so")
    also = f" and, if it is divided, {', '.join(optional)}" if optional else ""
    shown = ", ".join(repr(name) if name != name.strip() or not name else name for name in header) or "(none)"
    raise DataError(
        f"{file} has the columns {shown}, but must have {', '.join(needed)}{also}"
        + "".join(f"; {hint}" for hint in _column_hints(columns, known))
    )


def _column_hints(columns: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """What to do about columns that are not those."""
    if columns and columns[0].startswith("#"):
        plain = [columns[0].lstrip("# "), *columns[1:]]
        yield "take the # away" if plain[0] in known else "its first line is a comment: remove it"
        return
    if any(cell.endswith(IMAGE_SUFFIXES) for cell in columns):
        yield f"its first line is an image already: write a line {','.join(known[:2])} above it"
        return
    for position, name in enumerate(columns):
        if not name or name.startswith("unnamed:"):
            yield f"column {position + 1} has no name (pandas writes its index so): save it with index=False"
        elif name not in known:
            yield _instead(name, [other for other in known if other not in columns])
    for name in sorted({name for name in columns if columns.count(name) > 1 and name}):
        yield f"{name!r} stands there twice"


def _instead(name: str, free: Iterable[str]) -> str:
    for other in free:
        if name in _SYNONYMS.get(other, ()):
            return f"call {other!r} what is called {name!r}"
    near = nearest(name, free, cutoff=0.6)
    return f"did you mean {near!r} by {name!r}?" if near else f"remove {name!r}"
