"""Is the run in a folder the one that is wanted now? What ``run.json`` says, compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt_plugin._names import some
from cpt_plugin.config_identity import NAMED_KEYS, NEUTRAL_KEYS, differences
from cpt_plugin.data.custom import OWN_KINDS
from cpt_plugin.errors import ConfigError, CPTError

_CHANGED = {"prompts_hash": "the prompts that it evaluates changed since"}
"""What is said instead of two hashes that differ."""


@dataclass(frozen=True)
class RunData:
    """The images and class names of a run now, to be compared with what they were.

    dataset: after every selection; root: the data folder; kind: ``DATASET.NAME``.
    """

    dataset: Any
    root: str
    split_hash: str
    kind: str

    @classmethod
    def of(cls, cfg: Any) -> RunData:
        """Those of a configuration, read now.

        Raises:
            CPTError: what reading them raises.
        """
        from cpt_plugin.toolkit import DataManager

        data = DataManager(cfg)
        return cls(data.dataset, cfg.DATASET.ROOT, data.split_hash, cfg.DATASET.NAME)

    @property
    def identity(self) -> dict[str, Any]:
        """What ``run.json`` says about them."""
        return {"split_hash": self.split_hash, "class_names": list(self.dataset.classnames)}

    def change_since(self, split_hash: str, names: Sequence[str] | None) -> str:
        """In words, what changed since the split hash and the class names were these; "" for nothing.

        names: None where an earlier version wrote the hash, which did not keep them, nor look into a person's own
        images.
        """
        if split_hash == self.split_hash:
            return ""
        if names is None:
            unseen = " (or an earlier version made it, which did not compare the files of one's own images)"
            return "the images, their division or class names changed since" + unseen * (self.kind in OWN_KINDS)
        images = "the images or their division changed since"
        if self.kind in OWN_KINDS:
            images += " (or it is of another data set of that name)"
        if (now := list(self.dataset.classnames)) == list(names):
            return images
        renamed = [f"{old!r} is {new!r} now" for old, new in zip(names, now, strict=False) if old != new]
        if len(now) == len(names) and self._under(names) == split_hash:
            return f"{CLASS_NAMES_CHANGED}: {some(renamed)}"
        return f"{images}, and the class names as well"

    def _under(self, names: Sequence[str]) -> str:
        from cpt_plugin.toolkit.embedded.data import split_hash

        return split_hash(self.dataset, self.root, names)


CLASS_NAMES_CHANGED = "the class names changed since"


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
    path: Path,
    mine: dict[str, Any],
    named: Collection[str] = (),
    ignore: Collection[str] = NEUTRAL_KEYS,
    data: RunData | None = None,
) -> None:
    """Compare a run, ``mine``, as far as it says what it is, with the one that ``path`` tells of, if there is such.

    named: settings that the command could give a folder of their own (``--variant``); ignore: settings left aside;
    data: the run's images and class names, where they are known.

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
        other_data = data.change_since(theirs["split_hash"], theirs.get("class_names")) if data else ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): delete the folder {path.parent} to run anew.") from error
    if changed or other_data or settings:
        renamed = other_data.startswith(CLASS_NAMES_CHANGED)
        keys = {line.split(":")[0] for line in settings} | (NAMED_KEYS if renamed else set())
        apart = not changed and (renamed or not other_data) and all(key in named for key in keys)
        raise OtherRun(path.parent, [*changed, *filter(None, [other_data]), *settings], apart)


def refusals(checks: Iterable[Callable[[], object]]) -> ConfigError | None:
    """Look into folders, each by its check; one error that says what they refuse, None for nothing.

    A damaged record is left for its own run to tell of.
    """
    found: list[ConfigError] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            found.append(error)
        except CPTError:
            continue
    return all_of(found) if found else None


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
