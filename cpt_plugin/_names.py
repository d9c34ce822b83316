"""Names in messages: the known one most like a wrong one, and the first few of many; standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_SHOWN = 3


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str:
    """Return the known name most like ``name``, ignoring case.

    ``cutoff`` in [0, 1] is the least similarity (difflib's ratio); the empty string says that none reaches it.
    """
    by_key = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), by_key, n=1, cutoff=cutoff)
    return by_key[matches[0]] if matches else ""


def hint(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the end of a refusal: the nearest known name, or all of them when none is near."""
    names = list(known)
    near = nearest(name, names, cutoff)
    return f"did you mean {near!r}?" if near else f"known: {', '.join(sorted(names)) or 'none'}"


def some(names: Sequence[str]) -> str:
    """Return at most three names and how many more there are; ``none`` for none."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
