"""Where a record's numbers come from: library versions, code state, time."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cpt_plugin import __version__
from cpt_plugin.results.record import GitState

LIBRARIES = ("torch", "torchvision", "numpy", "faiss-cpu", "clip-anytorch", "yacs", "dassl")


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python, of this package, and of those libraries that are installed."""
    found = {"python": platform.python_version(), "cpt_plugin": __version__}
    for library in libraries:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: str | Path) -> GitState:
    """Commit of the repository around `folder` and whether its tracked files were changed."""
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return GitState(commit or None, None if status is None or not commit else bool(status))


def utc_now() -> str:
    """The present time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: str | Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
