"""Judges what runs read and write: disk, output folder, data sets, CLIP weights."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cpt_plugin import openai_weights
from cpt_plugin._hashing import sha256_of
from cpt_plugin._paths import from_home
from cpt_plugin.data.instructions import get_command
from cpt_plugin.data.layout import misplaced
from cpt_plugin.data.manifest import Manifest, manifest_names, manifest_of
from cpt_plugin.doctor.processes import PACKAGE
from cpt_plugin.doctor.report import FIX, NOTE, OK, Finding
from cpt_plugin.doctor.subject import ROOT, Subject
from cpt_plugin.errors import CPTError

GROUP = "data and weights"
COMMAND = "run"
ASSETS = PACKAGE / "assets"
DEFAULT_BACKBONE = "ViT-B/16"
_GIB = 1 << 30
_SCARCE, _FULL = 5 * _GIB, _GIB


def disk(subject: Subject) -> Iterator[Finding]:
    """Free space where the repository, the data, the output and CLIP's cache are; one finding a file system."""
    cache = from_home(openai_weights.CACHE)
    places = {"repository": ROOT, "data": subject.root, "output": subject.output, "CLIP cache": cache}
    together: dict[int, list[str]] = {}
    for name, folder in places.items():
        together.setdefault(existing(folder).stat().st_dev, []).append(name)
    for names in together.values():
        folder = existing(places[names[0]])
        free = shutil.disk_usage(folder).free
        text = f"{free / _GIB:.1f} GiB free for {', '.join(names)}"
        if free >= _SCARCE:
            yield Finding(GROUP, OK, "disk", text)
            continue
        text += ": an environment takes 2 GB (8 GB with CUDA), one of OpenAI's models up to 1 GB, a run some MB"
        yield Finding(GROUP, FIX if free < _FULL else NOTE, "disk", text, f"df -h {folder}")


def output(subject: Subject) -> Finding:
    """Whether records and checkpoints can be written."""
    folder = existing(subject.output)
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, "is a file")
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        text = f"{subject.output} cannot be written ({folder}: {error.strerror}): give another folder to every run"
        return Finding(GROUP, FIX, "output", text, "bash scripts/run.sh ... --output FOLDER")
    return Finding(GROUP, OK, "output", f"{subject.output} can be written")


def data(subject: Subject) -> Iterator[Finding]:
    """Which data sets are whole, which lack something, which are absent.

    Files that a whole data set shares with another one (ImageNet's images) do not make the other one incomplete. One
    that lies elsewhere in the data folder is told with the commands that move it.
    """
    found = []
    for manifest in map(manifest_of, manifest_names()):
        elsewhere = misplaced(manifest, subject.root)
        if elsewhere is None:
            found.append((manifest, manifest.missing(subject.root)))
        else:
            text = f"{elsewhere.summary}: move it"
            yield Finding(GROUP, FIX, "data", text, "\n".join(elsewhere.commands))
    whole = [manifest for manifest, missing in found if not missing]
    shared = {path for manifest in whole for path in manifest.wanted}
    begun = [(m, missing) for m, missing in found if missing and {*m.wanted} - {*missing} - shared]
    for manifest, missing in begun:
        yield incomplete(manifest, missing, subject.root)
    absent = [m.name for m, missing in found if missing and (m, missing) not in begun]
    if whole:
        yield Finding(GROUP, OK, "data", f"in {subject.root}: {', '.join(manifest.name for manifest in whole)}")
    if absent:
        text = f"not in {subject.root}: {', '.join(absent)} (`shapes` needs none; --root or DATA_ROOT looks elsewhere)"
        yield Finding(GROUP, NOTE, "data", text, get_command(absent[0], subject.root))


def incomplete(manifest: Manifest, missing: tuple[str, ...], root: Path) -> Finding:
    """Finding about a data set of which only a part is there."""
    text = f"{manifest.name} in {root} lacks {', '.join(missing)}"
    split = f"{manifest.folder}/{manifest.split}"
    status = FIX
    if manifest.own_split and missing == (split,):
        status = NOTE
        text += ", the published split; one of our own can be made instead (DATASET.SPLIT own)"
    return Finding(GROUP, status, "data", text, get_command(manifest.name, root))


def weights(subject: Subject) -> Iterator[Finding]:
    """Which of OpenAI's models are in the cache, and whether they are what they should be."""
    whole = []
    for name, expected in openai_weights.SHA256.items():
        file = openai_weights.cache_file(name)
        if not file.is_file():
            continue
        if sha256_of(file) == expected:
            whole.append(name)
        else:
            text = f"{file} is damaged: not the SHA-256 of OpenAI's {name}"
            yield Finding(GROUP, FIX, "weights", text, download(name))
    if whole:
        yield Finding(GROUP, OK, "weights", f"CLIP {', '.join(whole)} in {openai_weights.CACHE}, whole")
    if DEFAULT_BACKBONE not in whole and not openai_weights.cache_file(DEFAULT_BACKBONE).is_file():
        text = f"no CLIP {DEFAULT_BACKBONE} in {openai_weights.CACHE} (`shapes` needs none; or give --backbone FILE)"
        yield Finding(GROUP, NOTE, "weights", text, download(DEFAULT_BACKBONE))


def download(name: str) -> str:
    """Command that fetches one of OpenAI's models."""
    folder = openai_weights.CACHE
    return f"mkdir -p {folder} && curl -o {folder / openai_weights.file_name(name)} {openai_weights.address(name)}"


def run_command(subject: Subject, words: Sequence[str]) -> Finding:
    """Whether a run of these words would begin: checked as `scripts/run.sh` checks them, and nothing is fetched."""
    from cpt_plugin.cli.arguments import parse_arguments
    from cpt_plugin.cli.materials import Lacking

    missing: list[Lacking] = []
    folders = ["--root", str(subject.root), "--output", str(subject.output)]
    try:
        parse_arguments([*words, *folders], supply=missing.append)
    except CPTError as error:
        return Finding(COMMAND, FIX, words[0], str(error))
    files = [piece.file.name for one in missing for piece in one.pieces]
    if files:
        return Finding(COMMAND, NOTE, words[0], f"the run would first get {', '.join(files)}")
    return Finding(COMMAND, OK, words[0], "its words make sense, and its images and weights are there")


def micro(subject: Subject) -> Finding:
    """Whether the embedded model is what was published with this package."""
    file = ASSETS / "micro_clip.npz"
    restore = shlex.join(["git", "-C", str(ROOT), "checkout", "--", str(file), str(file.with_suffix(".json"))])
    fix = restore if (ROOT / ".git").exists() else ""
    try:
        expected = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["npz_sha256"]
        intact = sha256_of(file) == expected
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(GROUP, FIX, "micro", f"the embedded model cannot be read ({error}): restore its two files", fix)
    if not intact:
        return Finding(GROUP, FIX, "micro", f"the embedded model {file} is damaged: restore it, or install anew", fix)
    return Finding(GROUP, OK, "micro", "the embedded model is intact")


def existing(path: Path) -> Path:
    """A path, or its nearest parent that is there."""
    return next(folder for folder in (path, *path.parents) if os.path.lexists(folder))


CHECKS = (disk, output, data, weights, micro)
