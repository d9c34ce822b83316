"""Whether a data set is as it was: missing, extra, damaged and mislabelled files, each by its path.

The first time, what can be seen without knowing the files is checked (they are there, images decode, labels and names
agree), and a list of all files with their hashes is written. From then on files are compared with that list, so that
any changed byte is found. What is published outranks the list: files with a published SHA-256, and the numbers of
images and classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cpt_plugin._hashing import md5_of
from cpt_plugin._names import some
from cpt_plugin.data import IMAGE_SUFFIXES
from cpt_plugin.data._examine import Content, examine
from cpt_plugin.data._file_list import Row, list_file, read_list, write_list
from cpt_plugin.data.layout import misplaced
from cpt_plugin.data.list_file import read_listed
from cpt_plugin.data.manifest import Manifest
from cpt_plugin.data.published import differences, shortfall
from cpt_plugin.data.split_file import PARTS, is_published, read_entries
from cpt_plugin.errors import DataError

_ONE_CLASS = 0.9


class Finding(NamedTuple):
    """Something wrong: ``missing``, ``extra``, ``damaged`` or ``mislabelled``; a path below the data set's folder."""

    kind: str
    path: str
    detail: str


@dataclass
class Report:
    """What :func:`verify` found.

    Attributes:
        findings: what is wrong.
        notes: what a person may want to know.
        files: number of files looked at.
        compared: whether they were compared with a list of hashes.
        pinned: whether a list of hashes was written now.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    compared: bool = False
    pinned: bool = False


class _Item(NamedTuple):
    path: str
    part: str
    label: int
    name: str


_Items = list[_Item]


def verify(manifest: Manifest, root: Path, own_split: bool = False, anew: bool = False) -> Report:
    """Check the files of a data set below ``root``.

    Args:
        manifest: the data set.
        root: data root.
        own_split: the published split file is not wanted.
        anew: forget the list of hashes of before; what is there now is checked as for the first time.

    Raises:
        DataError: the list of hashes is damaged, or a folder may not be read.
    """
    folder, report = root / manifest.folder, Report()
    absent = {str(PurePosixPath(path).relative_to(manifest.folder)) for path in manifest.missing(root)}
    elsewhere = misplaced(manifest, root, own_split)
    if elsewhere is not None:
        report.notes.append(elsewhere.text)
    split = "" if own_split else manifest.split
    items = _read_split(manifest, folder, split, report) if split else _read_lists(manifest, folder, absent, report)
    pins = _published_pins(manifest, folder, split)
    present = _present(manifest, folder, split)
    file = list_file(folder, manifest.name)
    known = None if anew else read_list(file)
    first = known is None
    if known is not None:
        split_is_new = items is not None and not any(row.part for row in known)  # it was verified without one
        published = split in pins and pins[split].published
        trusted = None if split_is_new or published else items
        contents = _compare(folder, known, present - ({split} if split_is_new else set()), trusted, set(pins), report)
        report.compared = not split_is_new
        first = split_is_new and not report.findings
    if first:
        contents = _first_look(manifest, folder, absent, split, present, items, report)
    _look_at_published(manifest, folder, split, items, pins, report)
    _look_at_numbers(manifest, split, items, present, absent, report)
    outdated = known is not None and report.compared and _outdated(known, contents, items)
    if not report.findings and (first or outdated):
        if outdated:
            report.notes.append("the list of hashes held other files than the published ones: it is corrected")
        _write(file, folder, contents, items, report)
    return report


def _write(
    file: Path, folder: Path, contents: dict[str, Content], items: _Items | None, report: Report
) -> None:
    rows = {item.path: item for item in items or []}
    try:
        write_list(file, (_row(path, contents[path], rows.get(path)) for path in sorted(contents)))
        report.pinned = True
    except OSError as error:
        report.notes.append(f"{folder} cannot be written ({error.strerror}): the next check is a first one too")


def _outdated(known: list[Row], contents: dict[str, Content], items: _Items | None) -> bool:
    """Whether published files, which need no list, differ from what the list has of them."""
    then = {row.path: row.sha256 for row in known}
    entries = {_Item(row.path, row.part, row.label, row.name) for row in known if row.part}
    now = {path: content.sha256 for path, content in contents.items()}
    return then != now or (items is not None and entries != set(items))


def _row(path: str, content: Content, item: _Item | None) -> Row:
    split = (item.part, item.label, item.name) if item else ()
    return Row(path, content.size, content.sha256, *split)


def _present(manifest: Manifest, folder: Path, split: str) -> set[str]:
    """Files below the image folders, and the other wanted files that are there; hidden ones do not count."""
    found = {path for path in [*filter(None, [split]), *manifest.files] if (folder / path).is_file()}
    for images in manifest.images:
        for place, folders, files in os.walk(folder / images, followlinks=True):
            folders[:] = [n for n in sorted(folders) if not n.startswith(".") and not _leads_back(place, n)]
            below = PurePosixPath(Path(place).relative_to(folder).as_posix())
            found.update(str(below / name) for name in files if not name.startswith("."))
    return found


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    path = os.path.join(place, name)
    return os.path.islink(path) and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(path))


def _read_split(manifest: Manifest, folder: Path, split: str, report: Report) -> _Items | None:
    """Entries of the split file, paths below the data set's folder; None where there is none that can be read."""
    if not split:
        return None
    if not (folder / split).exists():
        report.findings.append(Finding("missing", split, "the split file"))
        return None
    try:
        parts = read_entries(folder / split)
    except DataError as error:
        report.findings.append(Finding("damaged", split, str(error)))
        return None
    below = PurePosixPath(manifest.base).relative_to(manifest.folder)
    return [
        _Item(str(below / path), part, label, name)
        for part, entries in zip(PARTS, parts, strict=True)
        for path, label, name in entries
    ]


def _read_lists(manifest: Manifest, folder: Path, absent: set[str], report: Report) -> _Items | None:
    """Entries of the lists that divide the images; None where there are no lists, or not all can be read."""
    if not manifest.lists or absent & set(manifest.lists.values()):
        return None
    below = PurePosixPath(manifest.base).relative_to(manifest.folder)
    rows: list[tuple[str, str, str]] = []
    for part, file in manifest.lists.items():
        try:
            rows += [(str(below / path), part, label) for path, label in read_listed(folder / file)]
        except DataError as error:
            report.findings.append(Finding("damaged", file, str(error)))
            return None
    names = {name: number for number, name in enumerate(sorted({label for *_, label in rows}))}
    return [
        _Item(path, part, int(label), PurePosixPath(path).parent.name)
        if label.isdecimal() and len(label) < 10
        else _Item(path, part, names[label], label)
        for path, part, label in rows
    ]


class _Pin(NamedTuple):
    published: bool
    hash: str


def _published_pins(manifest: Manifest, folder: Path, split: str) -> dict[str, _Pin]:
    """Of the files with a published hash that are there: whether each is the published one, and that hash."""
    pins = {}
    for path in [*filter(None, [split]), *manifest.files]:
        source = manifest.source_of(f"{manifest.folder}/{path}")
        if not (folder / path).is_file():
            continue
        if path in manifest.md5:
            pins[path] = _Pin(md5_of(folder / path) == manifest.md5[path], f"MD5 is {manifest.md5[path]}")
        elif source and source.sha256 and not source.into.endswith("/"):
            pins[path] = _Pin(is_published(folder / path, source.sha256), f"SHA-256 is {source.sha256}")
    return pins


def _look_at_published(
    manifest: Manifest, folder: Path, split: str, items: _Items | None, pins: dict[str, _Pin], report: Report
) -> None:
    """Files that are not the published ones, whatever the list of hashes says of them."""
    unlike = _unlike_the_published(manifest, items) if split and items is not None else ""
    for path, pin in pins.items():
        if not pin.published and not any(finding.path == path for finding in report.findings):
            source = manifest.source_of(f"{manifest.folder}/{path}")
            differs = f": {unlike}" if path == split and unlike else ""
            again = f"; get it again from {source.url}" if source else ""
            text = f"is not the published file, whose {pin.hash}{differs}{again}"
            report.findings.append(Finding("damaged", path, text))
    if unlike and split not in pins:
        report.findings.append(Finding("damaged", split, f"is not the published split: {unlike}"))


def _unlike_the_published(manifest: Manifest, items: _Items) -> str:
    names = [name for _, name in sorted({item.label: item.name for item in items}.items())]
    sizes = Counter(item.part for item in items)
    return "; ".join(differences(manifest, names, [sizes[part] for part in PARTS]).wrong)


def _look_at_numbers(
    manifest: Manifest, split: str, items: _Items | None, present: set[str], absent: set[str], report: Report
) -> None:
    """Fewer images or classes than published, where no split file tells which there must be."""
    source = f" ({manifest.counts.source})" if manifest.counts.source else ""
    add = report.findings.append
    if items is not None and not split:
        sizes = Counter(item.part for item in items)
        classes = len({item.label for item in items})
        for text in shortfall(manifest, classes, [sizes[part] for part in PARTS]):
            add(Finding("missing", manifest.lists["train"], f"{text} are listed{source}"))
    if manifest.split and not split:
        should = sum(getattr(manifest.counts, part) or 0 for part in PARTS)
        found = sum(path.lower().endswith(IMAGE_SUFFIXES) for path in present)
        told = any(finding.kind == "missing" for finding in report.findings)
        if found < should and not told and not absent & set(manifest.images):
            add(Finding("missing", manifest.images[0], f"{found:,} of {should:,} images{source}"))
    for part, images in manifest.parts.items():
        below = [PurePosixPath(path).relative_to(images) for path in present if path.startswith(f"{images}/")]
        here = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
        should = getattr(manifest.counts, part)
        classes = len({path.parts[0] for path in here if len(path.parts) > 1})
        told = any(f.kind == "missing" and f.path.startswith(f"{images}/") for f in report.findings)
        if not told and images not in absent and (len(here) < should or classes < manifest.counts.classes):
            text = f"{len(here):,} of {should:,} images in {classes:,} of {manifest.counts.classes:,} classes{source}"
            add(Finding("missing", images, text))


def _first_look(
    manifest: Manifest,
    folder: Path,
    absent: set[str],
    split: str,
    present: set[str],
    items: _Items | None,
    report: Report,
) -> dict[str, Content]:
    """Everything that can be told without knowing the files."""
    add = report.findings.append
    for path in [*manifest.images, *manifest.files]:
        if path in absent:
            add(Finding("missing", path, "nothing is there"))
    listed = {item.path for item in items or []}
    for path in sorted(listed - present):
        if any(path.startswith(f"{place}/") for place in absent):
            continue
        if (folder / path).is_file():
            present.add(path)  # behind a link to a folder
        else:
            add(Finding("missing", path, f"{split or 'a list'} names it"))
    contents = dict(examine(folder, sorted(present), decode=True))
    for path, content in contents.items():
        if content.fault and (not listed or path in listed or path in manifest.files):
            add(Finding("damaged", path, content.fault))
        elif content.fault:
            report.notes.append(f"{path} {content.fault}; no split names it")
    report.files = len(contents)
    if items is not None:
        report.findings += _contradictions(items, split or "a list")
        _note_duplicates(items, contents, report)
        unlisted = [p for p in contents if p not in listed and p != split and p not in manifest.files]
        if unlisted:
            report.notes.append(f"{len(unlisted)} files that no part of the split names: {some(unlisted)}")
    return contents


def _contradictions(items: _Items, split: str) -> list[Finding]:
    """Entries whose label, name, part or folder does not agree with the others."""
    found = []
    names = _majority((item.label, item.name) for item in items)
    labels = _majority((item.name, item.label) for item in items)
    folders = _majority((str(PurePosixPath(item.path).parent), item.label) for item in items)
    by_folder = _agreement(items, lambda item: folders[str(PurePosixPath(item.path).parent)] == item.label)
    one_to_one = len(names) == len(labels)
    seen: dict[str, _Item] = {}
    for item in items:
        first = seen.setdefault(item.path, item)
        if first is not item:
            found.append(Finding("mislabelled", item.path, f"{split} has it twice, in {first.part} and {item.part}"))
        elif names[item.label] != item.name:
            usual = names[item.label]
            found.append(Finding("mislabelled", item.path, f"label {item.label} is {item.name!r}, else {usual!r}"))
        elif one_to_one and labels[item.name] != item.label:
            usual_label = labels[item.name]
            found.append(Finding("mislabelled", item.path, f"{item.name!r} is {item.label}, else {usual_label}"))
        elif by_folder and folders[parent := str(PurePosixPath(item.path).parent)] != item.label:
            usual = names[folders[parent]]
            found.append(Finding("mislabelled", item.path, f"is {item.name!r}, but {parent}/ holds {usual!r}"))
    return found


def _majority(pairs: Iterable[tuple[object, object]]) -> dict:
    """Most frequent second part of each first one."""
    counts: dict[object, Counter] = {}
    for key, value in pairs:
        counts.setdefault(key, Counter())[value] += 1
    return {key: counter.most_common(1)[0][0] for key, counter in counts.items()}


def _agreement(items: _Items, agrees: Callable[[_Item], bool]) -> bool:
    """Whether nearly all entries agree, so that the others are wrong: a data set of one folder a class."""
    parents = {str(PurePosixPath(item.path).parent) for item in items}
    several = len(parents) >= len({item.label for item in items})
    return several and sum(map(agrees, items)) >= _ONE_CLASS * len(items)


def _note_duplicates(items: _Items, contents: dict[str, Content], report: Report) -> None:
    here = [item for item in items if item.path in contents]
    training = {contents[item.path].sha256: item.path for item in here if item.part == "train"}
    tested = [item.path for item in here if item.part == "test"]
    both = [path for path in tested if contents[path].sha256 in training]
    if both:
        example = f"{both[0]} = {training[contents[both[0]].sha256]}"
        report.notes.append(f"{len(both)} test images are training images too, byte for byte: {example}")


def _compare(
    folder: Path, known: list[Row], present: set[str], items: _Items | None, published: set[str], report: Report
) -> dict[str, Content]:
    """Every difference between what is there and the list of hashes, but for files with a published hash.

    Entries of the split or the lists are compared where ``items`` are given. Returns what the files hold.
    """
    rows = {row.path: row for row in known}
    present |= {path for path in rows if path not in present and (folder / path).is_file()}
    origin = {row.sha256: row for row in known if row.size}
    contents = dict(examine(folder, sorted(present), decode=False))
    report.files = len(contents)
    add = report.findings.append
    for path in sorted(rows.keys() | contents.keys()):
        content, row = contents.get(path), rows.get(path)
        if path in published:
            continue
        if content is None:
            add(Finding("missing", path, "it was there when the list was written"))
        elif content.fault:
            add(Finding("damaged", path, content.fault))
        elif row is None or content.sha256 != row.sha256:
            other = origin.get(content.sha256)
            if other is not None:
                what = f", of {other.name!r}" if other.name else ""
                add(Finding("mislabelled", path, f"holds the file {other.path}{what}"))
            elif row is None:
                add(Finding("extra", path, "it was not there when the list was written"))
            else:
                add(Finding("damaged", path, _change(content, row)))
    if items is not None:
        report.findings += _changed_entries(known, items)
    return contents


def _change(content: Content, row: Row) -> str:
    if content.size != row.size:
        return f"has {content.size} bytes instead of {row.size}"
    return "has another content of the same length"


def _changed_entries(known: list[Row], items: _Items) -> list[Finding]:
    """Entries of the split file that differ from the list."""
    then: Counter[_Item] = Counter(_Item(row.path, row.part, row.label, row.name) for row in known if row.part)
    now = Counter(items)
    gone, new = then - now, now - then
    places = {item.path for item in new}
    found = [
        Finding("missing", item.path, f"the split file does not name it any more (was {_as_text(item)})")
        for item in gone
        if item.path not in places
    ]
    before = {item.path: item for item in then}
    for item in new:
        if item.path in before:
            detail = f"the split file says {_as_text(item)}, was {_as_text(before[item.path])}"
            found.append(Finding("mislabelled", item.path, detail))
        else:
            found.append(Finding("extra", item.path, f"the split file names it now ({_as_text(item)})"))
    return found


def _as_text(item: _Item) -> str:
    return f"{item.label} {item.name!r} in {item.part}"
