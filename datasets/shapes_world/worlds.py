"""Named worlds: a class set drawn in a domain, and the parsing of ``shapes[:CLASSSET[:DOMAIN]]``."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from cpt_plugin.errors import ConfigError
from datasets.shapes_world.class_sets import CLASS_SETS, ClassSpec, class_set
from datasets.shapes_world.domains import DOMAINS, Domain

DATASET_NAME = "shapes"
DEFAULT_CLASS_SET = "triples"
DEFAULT_DOMAINS: dict[str, str] = dict.fromkeys(CLASS_SETS, "clean") | {"triples": "tint"}
"""The domain of a class set when none is given."""


@dataclass(frozen=True)
class World:
    """A class set and a domain."""

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
    def classes(self) -> tuple[ClassSpec, ...]:
        """Its classes in label order."""
        return class_set(self.class_set)

    @property
    def render_parameters(self) -> Domain:
        """The render parameters of its domain."""
        return DOMAINS[self.domain]


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
        raise ConfigError(f"world {text!r} has too many parts: write {DATASET_NAME}[:CLASSSET[:DOMAIN]]")
    chosen = _known(parts[0], CLASS_SETS, "class set", text) if parts else DEFAULT_CLASS_SET
    domain = _known(parts[1], tuple(DOMAINS), "domain", text) if len(parts) == 2 else DEFAULT_DOMAINS[chosen]
    return World(chosen, domain)


def _known(name: str, choices: tuple[str, ...], kind: str, text: str) -> str:
    if name in choices:
        return name
    near = get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f", did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"unknown {kind} {name!r} in world {text!r}{hint} Known: {', '.join(choices)}")
