"""Names of the embedded worlds: class sets with their sizes, domains, and ``shapes[:CLASSSET[:DOMAIN]]``.

Standard library only, so that a command line can be checked before anything is installed. What the names mean
is defined where the worlds are drawn, in the repository's ``datasets/shapes_world``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cpt_plugin._names import nearest
from cpt_plugin.errors import ConfigError

DATASET_NAME = "shapes"
CLASS_SETS: dict[str, int] = {
    "triples": 48,
    "texture_shape": 48,
    "color_shape": 48,
    "color_texture": 48,
    "shapes": 16,
    "colors": 12,
    "other_triples": 48,
    "other_texture_shape": 48,
}
"""Number of classes of each class set."""
DOMAINS = ("clean", "shift", "lowfi", "warp", "outline", "tint", "rot", "dim", "crowd")
DEFAULT_CLASS_SET = "triples"
DEFAULT_DOMAINS: dict[str, str] = dict.fromkeys(CLASS_SETS, "clean") | {"triples": "tint"}
"""The domain of a class set when none is given."""
WORLD_FORM = f"{DATASET_NAME}[:CLASSSET[:DOMAIN]]"


@dataclass(frozen=True)
class World:
    """A class set drawn in a domain."""

    class_set: str
    domain: str

    @property
    def folder(self) -> str:
        """Name of its image folder, for example ``triples-tint``."""
        return f"{self.class_set}-{self.domain}"

    @property
    def name(self) -> str:
        """Its full name on the command line, for example ``shapes:triples:tint``."""
        return f"{DATASET_NAME}:{self.class_set}:{self.domain}"

    @property
    def num_classes(self) -> int:
        """Number of its classes, base and new."""
        return CLASS_SETS[self.class_set]


NAMED_WORLDS: tuple[World, ...] = (
    World("triples", "clean"),
    World("triples", "shift"),
    World("triples", "tint"),
    World("triples", "warp"),
    World("texture_shape", "clean"),
    World("texture_shape", "rot"),
    World("color_shape", "clean"),
    World("color_shape", "warp"),
    World("color_texture", "lowfi"),
    World("color_texture", "dim"),
    World("shapes", "outline"),
    World("shapes", "crowd"),
    World("colors", "shift"),
)
"""The worlds that tables and protocols use; every other combination works as well."""


def parse_world(text: str) -> World:
    """Read ``[shapes:]CLASSSET[:DOMAIN]``; ``""`` and ``shapes`` mean the default world.

    The class set of bare shapes has the name of the data set: ``shapes:shapes`` is that set in its default
    domain, and ``shapes:outline`` that set in a named domain.

    Raises:
        ConfigError: a name is unknown (the message gives the nearest one) or there are too many parts.
    """
    parts = text.split(":") if text else []
    bare_shapes = len(parts) == 2 and parts[1] in DOMAINS
    if parts and parts[0] == DATASET_NAME and not bare_shapes:
        parts = parts[1:]
    if len(parts) > 2:
        raise ConfigError(f"world {text!r} has too many parts: write {WORLD_FORM}")
    chosen = check_class_set(parts[0], text) if parts else DEFAULT_CLASS_SET
    domain = _known(parts[1], DOMAINS, "domain", text) if len(parts) == 2 else DEFAULT_DOMAINS[chosen]
    return World(chosen, domain)


def check_class_set(name: str, text: str) -> str:
    """Return the name of a class set; ``text`` is what was written.

    Raises:
        ConfigError: there is no such class set.
    """
    return _known(name, CLASS_SETS, "class set", text)


def _known(name: str, choices: Collection[str], kind: str, text: str) -> str:
    if name in choices:
        return name
    raise ConfigError(
        f"unknown {kind} {name!r} in {text!r}; nearest: {nearest(name, choices)!r}; "
        f"possible: {WORLD_FORM} with class sets {', '.join(CLASS_SETS)} and domains {', '.join(DOMAINS)}"
    )
