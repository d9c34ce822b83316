"""Is the run in a folder the one that is wanted now? What ``run.json`` says, compared."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cpt_plugin.config_identity import differences
from cpt_plugin.errors import ConfigError

_CHANGED = {
    "split_hash": "the images or their division changed since",
    "prompts_hash": "the prompts that it evaluates changed since",
}
"""What is said instead of two hashes that differ."""


def check_identity(path: Path, mine: dict[str, Any], named: Collection[str] = ()) -> None:
    """Compare a run, ``mine``, with the one that ``path`` tells of, if there is such a file.

    named: settings that the command could give a folder of their own (``--variant``).

    Raises:
        ConfigError: they differ (every difference is named), or the file is damaged.
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
        settings = differences(theirs["config"], mine["config"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): delete the folder {path.parent} to run anew.") from error
    if changed or settings:
        apart = not changed and all(line.split(":")[0] in named for line in settings)
        variant = "Add --variant (a folder of their own for these settings), or give" if apart else "Give"
        raise ConfigError(
            f"{path.parent} holds another run than this one (there != now): {'; '.join([*changed, *settings])}. "
            f"{variant} another --output, or delete that folder."
        )
