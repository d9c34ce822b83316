"""What there is to choose from, one line each; standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cpt_plugin import worlds
from cpt_plugin.data.manifest import manifest_names, manifest_of
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import (
    ALIASES,
    dataset_names,
    describe_parts,
    find_repository,
    has_dpc,
    parse_method,
)


def lines(repository: Path | None = None) -> Iterator[str]:
    """The parts of method names, the data sets and the embedded worlds."""
    repository = repository or find_repository()
    yield f"methods: LEARNER{'[_dpc]' if has_dpc(repository) else ''}[_PART...], e.g. maple_cpt, maple_la_cptb"
    for part in describe_parts(repository):
        yield f"  {part.kind:<15} {part.name:<14} {part.description}"
    for alias, name in ALIASES.items():
        if alias_is_here(alias, repository):
            yield f"  {'alias':<15} {alias:<14} {name}"
    yield "data sets:"
    for name in dataset_names(repository)[1:]:
        yield f"  {name:<18} {manifest_of(name).title if name in manifest_names() else 'described by its yaml'}"
    yield "  (which of them are here, and how to get the others: python -m cpt_plugin data list)"
    yield "embedded worlds (drawn by the program, no download; `shapes` is the first):"
    default = worlds.parse_world("")
    for world in sorted(worlds.NAMED_WORLDS, key=lambda world: world != default):
        yield f"  {world.name:<28} {world.num_classes} classes, half base, half new"


def alias_is_here(alias: str, repository: Path) -> bool:
    """Whether every part of an alias exists in this version."""
    try:
        parse_method(alias, repository)
    except ConfigError:
        return False
    return True
