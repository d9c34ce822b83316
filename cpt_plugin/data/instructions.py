"""One screen for a person who has to get files by hand: which, from where, and to where; standard library only."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from cpt_plugin.data.manifest import Manifest
from cpt_plugin.data.plan import Piece, drive_id
from cpt_plugin.data.progress import readable

WIDTH = 100
_NAME = 16
_MANY = 3
_LINES = 24


def screen(what: str, reason: str, wanted: Sequence[Piece], again: str, ways: Sequence[tuple[str, str]]) -> str:
    """What is missing, the commands that get it, and what else works, in 24 lines.

    Other sources of what the commands get are left out where there is no room for them.

    Args:
        what: misses files, e.g. ``'eurosat'``.
        reason: why the program does not get it itself.
        wanted: the pieces that are missing.
        again: what to do when all files are in their places.
        ways: other possibilities, as name and text.
    """
    lines = [*_wrapped(f"{what}: files are missing, and {reason}", ""), "missing:"]
    lines += [line for text in _grouped(path for piece in wanted for path in piece.gives) for line in _wrapped(text)]
    fetched = [piece for piece in wanted if not piece.here and not piece.dead and piece.kind != "hand"]
    if fetched:
        lines.append("get, with a network (archives stay as they are, they are unpacked later):")
        folders = dict.fromkeys(shlex.quote(str(piece.file.parent)) for piece in fetched)
        lines.append(f"  mkdir -p {' '.join(folders)}")
        lines += [line for piece in fetched for line in _command(piece)]
    away = [piece for piece in wanted if piece.kind == "hand" and not piece.here]
    for why in dict.fromkeys(piece.dead for piece in away if piece.dead):
        names = ", ".join(piece.file.name for piece in away if piece.dead == why)
        folders = dict.fromkeys(str(piece.file.parent) for piece in away if piece.dead == why)
        lines += _wrapped(f"dead source ({why}) of {names}; they belong to {', '.join(folders)}/")
    for piece in away:
        if not piece.dead:
            lines += _wrapped(f"by hand, to {piece.file}: {piece.url}")
    end = [f"then {again}", "what else works:"]
    end += [line for name, text in ways for line in _wrapped(f"{name:<{_NAME}} {text}", later=" " * (_NAME + 3))]
    for text in _alternatives([*away, *fetched]):
        more = _wrapped(f"instead: {text}")
        if len(lines) + len(more) + len(end) <= _LINES or any(text == piece.instead for piece in away):
            lines += more
    return "\n".join(lines + end)


def _alternatives(wanted: Sequence[Piece]) -> list[str]:
    """What else works, each once, first for what cannot be fetched by a command."""
    texts = [piece.instead for piece in wanted if piece.instead]
    return [text for text in dict.fromkeys(texts) if not any(text != other and text in other for other in texts)]


def other_ways(manifest: Manifest | None, wanted: Sequence[Piece], backbone: bool) -> list[tuple[str, str]]:
    """What a person can do instead of getting everything: other folders, our own split, the drawn data."""
    ways = []
    gives = {path.name for piece in wanted for path in piece.gives}
    if manifest is not None:
        ways.append(("images elsewhere", f"--root FOLDER or DATA_ROOT=FOLDER, which holds {manifest.folder}/"))
        if manifest.own_split and Path(manifest.split).name in gives:
            ways.append(("no split file", "DATASET.SPLIT own (get: --own-split): our seeded split; records say so"))
    if backbone:
        ways.append(("other weights", "--backbone FILE, or another model's name"))
    ways.append(("no files at all", "bash scripts/run.sh maple_cpt shapes 0.25, drawn data and the embedded model"))
    return ways


def get_command(name: str, root: Path, own_split: bool = False) -> str:
    """What a person types to get a data set."""
    words = ["python", "-m", "cpt_plugin", "data", "get", name, "--root", str(root)]
    return shlex.join([*words, *["--own-split"] * own_split])


def announcement(wanted: Iterable[Piece]) -> list[str]:
    """What is about to be fetched, with sizes, one line each."""
    lines = []
    for piece in wanted:
        if piece.here:
            lines.append(f"  {piece.file} is here" + (": to be unpacked" if piece.folder else ""))
        elif piece.automatic:
            size = readable(piece.bytes) if piece.bytes else "size not known"
            lines.append(f"  {piece.file} ({size}) from {piece.url}")
    return lines


def _command(piece: Piece) -> list[str]:
    target = shlex.quote(str(piece.file))
    if piece.kind == "drive":
        browser = f"      # pip install gdown; or in a browser: {piece.url}"
        return [f"  gdown -O {target} {drive_id(piece.url)}", browser]
    address = shlex.quote(piece.address)
    whole = f"  curl -L -o {target} {address}"
    lines = [whole] if len(whole) <= WIDTH else [f"  curl -L -o {target} \\", f"      {address}"]
    return [*lines, *[f"      # or in a browser: {way.url}" for way in piece.ways[1:]]]


def _grouped(paths: Iterable[Path]) -> list[str]:
    """Absolute paths, those of one folder together when they are many."""
    folders: dict[Path, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    few = (f"{folder}/{name}" for folder, names in folders.items() if len(names) < _MANY for name in names)
    many = (f"{folder}/: {', '.join(names)}" for folder, names in folders.items() if len(names) >= _MANY)
    return [*few, *many]


def _wrapped(text: str, first: str = "  ", later: str = "      ") -> list[str]:
    """Lines of at most :data:`WIDTH`, where words allow it."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
