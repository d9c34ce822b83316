"""`python -m cpt_plugin results render FOLDER`: the tables and comparisons of kept records, the same to the byte."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpt_plugin._schema import SchemaError, decode
from cpt_plugin.cli import compare, results
from cpt_plugin.cli.writing import write_file
from cpt_plugin.errors import ConfigError, CPTError
from cpt_plugin.results import compare_text, render
from cpt_plugin.results.places import load_all
from cpt_plugin.results.record import RunRecord

MANIFEST = "manifest.yaml"
TABLES, COMPARISONS = "tables", "comparisons"
_COMPARED = ((".md", "markdown"), (".csv", "csv"))


@dataclass(frozen=True)
class Entry:
    """A table or a comparison: the stem of its files, and the words of ``results table`` or ``compare`` that make it.

    records: files or folders beside the manifest; by default the manifest's.
    """

    name: str
    words: str
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What a folder of records is rendered to.

    of_comparisons: words that comparisons share; their own stand behind them and may say otherwise.
    """

    records: tuple[str, ...]
    of_comparisons: str = ""
    tables: tuple[Entry, ...] = ()
    comparisons: tuple[Entry, ...] = ()


def render_folder(folder: Path, check: bool) -> int:
    """Write every file that the manifest names, or only ``check`` them.

    Returns 1 where a check finds a file that would change, that is missing, or that nothing renders, all of them named.

    Raises:
        ConfigError: the manifest, or the words of an entry, say something that has no meaning.
        RecordError: records that are missing, damaged, or must not be mixed.
    """
    found = dict(rendered(folder))
    wrong = {path: _state(folder / path, data) for path, data in found.items()}
    wrong = {path: state for path, state in wrong.items() if state}
    kept = [path for name in (TABLES, COMPARISONS) for path in (folder / name).rglob("*") if path.is_file()]
    strays = sorted(name for path in kept if (name := path.relative_to(folder).as_posix()) not in found)
    if not check:
        for path in wrong:
            write_file(folder / path, found[path])
            wrong[path] = "written"
    for path, state in (wrong | dict.fromkeys(strays, f"not from {MANIFEST}")).items():
        print(f"{path}: {state}", file=sys.stderr)
    print(f"{len(found)} files, {len(wrong)} {'would change' if check else 'written'}: {folder}")
    return int(check and bool(wrong or strays))


def rendered(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path inside the folder and content of every file; raises as :func:`render_folder` does."""
    manifest = load_manifest(folder / MANIFEST)
    loaded: dict[str, list[RunRecord]] = {}

    def records(names: Sequence[str]) -> list[RunRecord]:
        for name in names:
            if name not in loaded:
                loaded[name] = load_all([folder / name])
        return [record for name in names for record in loaded[name]]

    for kind, entries in ((TABLES, manifest.tables), (COMPARISONS, manifest.comparisons)):
        for entry in entries:
            try:
                own = records(entry.records or manifest.records)
                if kind == TABLES:
                    forms = _table(_words(entry.words), own, folder)
                else:
                    forms = _comparison(_words(f"{manifest.of_comparisons} {entry.words}"), own)
                for suffix, text in forms:
                    yield f"{kind}/{entry.name}{suffix}", text.encode()
            except CPTError as error:
                raise type(error)(f"{folder / MANIFEST}, {kind}, {entry.name}: {error}") from error


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest; raises ConfigError for what cannot be read or has no meaning."""
    import yaml

    try:
        manifest: Manifest = decode(Manifest, yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): give a folder with a {MANIFEST}") from error
    except (yaml.YAMLError, SchemaError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    for entries in (manifest.tables, manifest.comparisons):
        names = [entry.name for entry in entries]
        for name in names:
            if not re.fullmatch(r"\w[\w.,=+-]*", name):
                raise ConfigError(f"{path}: '{name}' is no name of a file: take letters, digits and . , = + - _")
            if names.count(name) > 1:
                raise ConfigError(f"{path}: two entries are called '{name}': give each a name of its own")
    return manifest


def _table(words: list[str], records: list[RunRecord], folder: Path) -> Iterator[tuple[str, str]]:
    given = _parsed(results.build_parser().parse_args, ["table", *words])
    _check_free(bool(given.records or given.output or given.format != "terminal"))
    grid = results.table_grid(given, results.table_spec(given, folder), records)
    return ((suffix, render.RENDERERS[form](grid)) for suffix, form in render.SUFFIXES)


def _comparison(words: list[str], records: list[RunRecord]) -> Iterator[tuple[str, str]]:
    given = _parsed(compare.parse, words)
    _check_free(bool(given.places or given.output or given.figure or given.form != "terminal"))
    answer = compare.answer(given, records)
    return ((suffix, compare_text.RENDERERS[form](answer)) for suffix, form in _COMPARED)


def _words(written: str) -> list[str]:
    try:
        return shlex.split(written)
    except ValueError as error:
        raise ConfigError(f"the words {written!r} cannot be taken apart: {error}") from error


def _parsed(parse: Callable[[list[str]], argparse.Namespace], words: list[str]) -> argparse.Namespace:
    try:
        return parse(words)
    except SystemExit as end:
        raise ConfigError("words that ask for help make no table: leave them out") from end


def _check_free(says_more: bool) -> None:
    if says_more:
        raise ConfigError("the manifest says where the records are, and every form is written: leave these words out")


def _state(path: Path, data: bytes) -> str:
    """What keeps a file from holding these bytes; "" for nothing."""
    if not path.is_file():
        return "missing"
    return "" if path.read_bytes() == data else "other bytes"
