"""`python -m cpt_plugin data`: which data sets are there, get one, check one."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cpt_plugin.cli.words import Parser, data_root
from cpt_plugin.data.get import get
from cpt_plugin.data.layout import misplaced
from cpt_plugin.data.manifest import Manifest, manifest_names, manifest_of
from cpt_plugin.data.progress import readable
from cpt_plugin.data.verify import Report, verify
from cpt_plugin.errors import ConfigError, DataError
from cpt_plugin.methods import find_repository, is_embedded

_PROGRAM = "python -m cpt_plugin data"
_DESCRIPTION = """\
Data sets of photographs below --root (default: $DATA_ROOT, else data).

  list          what is there, and how the rest is got
  get NAME      download what is missing, where licence and source allow it; checked, and unpacked;
                given again, it continues where it stopped
  verify NAME   missing, extra, damaged and mislabelled files by path; exit status 1 when there are any.
                The first time it writes the hashes of all files, with which it compares from then on"""
_EXAMPLES = f"""\
examples:
  {_PROGRAM} list
  {_PROGRAM} get eurosat --root ~/data
  {_PROGRAM} get eurosat --own-split     without CoOp's split file; run with DATASET.SPLIT own
  {_PROGRAM} verify eurosat"""
_COLUMNS = "  {:<16} {:<11} {:>9}  {:<12} {}"
_MOST_LINES = 50


def run(words: Sequence[str]) -> int:
    """Carry out `data list | get | verify`; returns the exit status."""
    given = _parser().parse_intermixed_args(list(words))
    root = data_root(given.root, _repository())
    if given.action == "list":
        if given.name or given.own_split or given.keep_archives or given.anew:
            raise ConfigError(f"list takes --root only ({_PROGRAM} --help)")
        print(_table(root))
        return 0
    if given.name is None:
        raise ConfigError(f"{given.action} needs the name of a data set, e.g. eurosat ({_PROGRAM} list)")
    if is_embedded(given.name):
        raise ConfigError(f"{given.name} is drawn by the program: there is nothing to {given.action}")
    manifest = manifest_of(given.name)
    try:
        if given.action == "get":
            get(manifest, root, given.own_split, given.keep_archives)
            print(f"'{manifest.name}' is complete in {root / manifest.folder}; checking it", file=sys.stderr)
        return _say(verify(manifest, root, given.own_split, given.anew), manifest, root)
    except KeyboardInterrupt:
        print("\ninterrupted: given again, the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} list | get NAME | verify NAME [options]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("list", "get", "verify"), metavar="list | get | verify")
    parser.add_argument("name", nargs="?", metavar="NAME", help="as on the command line of run, e.g. eurosat")
    parser.add_argument("--root", metavar="FOLDER", help="folder of the data sets (default: $DATA_ROOT, else data)")
    parser.add_argument("--own-split", action="store_true", help="do without the published split file")
    parser.add_argument("--keep-archives", action="store_true", help="get: keep archives that were unpacked")
    parser.add_argument("--anew", action="store_true", help="verify: forget the hashes of before, and write new ones")
    return parser


def _repository() -> Path:
    try:
        return find_repository()
    except ConfigError:
        return Path.cwd()


def _table(root: Path) -> str:
    lines = [f"data sets below {root}:", _COLUMNS.format("name", "state", "download", "got by", "licence")]
    for name in manifest_names():
        manifest = manifest_of(name)
        lines.append(_COLUMNS.format(name, _state(manifest, root), _size(manifest), _way(manifest), manifest.licence))
    lines.append(f"'python -m cpt_plugin data get NAME' gets one; state and NAME's files: {_PROGRAM} verify NAME")
    return "\n".join(lines)


def _state(manifest: Manifest, root: Path) -> str:
    try:
        missing = manifest.missing(root)
    except DataError:
        return "unreadable"
    if not missing:
        return "present"
    if misplaced(manifest, root):
        return "misplaced"
    return "absent" if len(missing) == len(manifest.wanted) else "incomplete"


def _needed(manifest: Manifest) -> list:
    return [source for source in manifest.sources if set(source.gives) & set(manifest.wanted)]


def _size(manifest: Manifest) -> str:
    sizes = [source.bytes for source in _needed(manifest)]
    if max(sizes, default=0) < 1e6 and 0 in sizes:
        return "?"
    return ("> " if 0 in sizes else "") + readable(sum(sizes))


def _way(manifest: Manifest) -> str:
    needed = _needed(manifest)
    if any(source.dead for source in needed):
        return "dead source"
    return "by hand" if any(source.kind == "manual" for source in needed) else "download"


def _say(report: Report, manifest: Manifest, root: Path) -> int:
    folder = root / manifest.folder
    for finding in report.findings:
        print(f"{finding.kind}: {folder / finding.path}: {finding.detail}")
    for note in report.notes[:_MOST_LINES]:
        print(f"note: {note}")
    if len(report.notes) > _MOST_LINES:
        print(f"note: and {len(report.notes) - _MOST_LINES} more of these")
    kinds = Counter(finding.kind for finding in report.findings)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    compared = "compared with the hashes of the first time" if report.compared else "checked for the first time"
    if report.findings:
        print(f"'{manifest.name}': {counts} ({report.files} files looked at)")
        return 1
    print(f"'{manifest.name}': {report.files} files {compared}, nothing wrong with them")
    if report.pinned:
        print(f"their hashes are written down in {folder}: from now on any change is found")
    return 0
