"""Is the run in a folder the one that is wanted now? What ``run.json`` says, compared."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cpt_plugin.config_identity import NEUTRAL_KEYS, differences
from cpt_plugin.errors import ConfigError

_CHANGED = {
    "split_hash": "the images or their division changed since",
    "prompts_hash": "the prompts that it evaluates changed since",
}
"""What is said instead of two hashes that differ."""


class OtherRun(ConfigError):
    """A folder holds a run with other settings, another engine or other images.

    changed: what differs, in words; apart: whether a folder of their own (``--variant``) would separate the settings.
    """

    def __init__(self, folder: Path, changed: Sequence[str], apart: bool) -> None:
        self.folder, self.changed, self.apart = folder, tuple(changed), apart
        super().__init__(
            f"{folder} holds another run than this one (there != now): {'; '.join(changed)}. "
            f"{_remedy(apart)}, or delete that folder."
        )


def check_identity(
    path: Path, mine: dict[str, Any], named: Collection[str] = (), ignore: Collection[str] = NEUTRAL_KEYS
) -> None:
    """Compare a run, ``mine``, as far as it says what it is, with the one that ``path`` tells of, if there is such.

    named: settings that the command could give a folder of their own (``--variant``); ignore: settings left aside.

    Raises:
        OtherRun: they differ (every difference is named).
        ConfigError: the file is damaged.
    """
    if not path.is_file():
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            _CHANGED.get(key, f"{key}: {theirs[key]!r} != {mine[key]!r}")
            for key in mine
            if key != "config" and theirs[key] != mine[key]
        ]
        settings = differences(theirs["config"], mine["config"], ignore)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): delete the folder {path.parent} to run anew.") from error
    if changed or settings:
        apart = not changed and all(line.split(":")[0] in named for line in settings)
        raise OtherRun(path.parent, [*changed, *settings], apart)


def all_of(errors: Sequence[ConfigError]) -> ConfigError:
    """One error that says what several do; folders with the same differences are named together."""
    if len(errors) == 1:
        return errors[0]
    others = [error for error in errors if isinstance(error, OtherRun)]
    places: dict[tuple[str, ...], list[str]] = {}
    for other in others:
        places.setdefault(other.changed, []).append(str(other.folder))
    said = [str(error) for error in errors if not isinstance(error, OtherRun)]
    if others:
        listed = "; ".join(f"{', '.join(folders)}: {'; '.join(changed)}" for changed, folders in places.items())
        remedy = _remedy(all(other.apart for other in others))
        what = "a folder holds another run" if len(others) == 1 else f"{len(others)} folders hold other runs"
        said.insert(0, f"{what} than wanted (there != now): {listed}. {remedy}, or delete what is named.")
    return ConfigError(" ".join(said))


def _remedy(apart: bool) -> str:
    variant = "Add --variant (a folder of their own for these settings), or give" if apart else "Give"
    return f"{variant} another --output"
