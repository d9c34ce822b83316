"""What there is to choose from, one line each; only parts of other packages are imported for it, if there are any."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from cpt_plugin import worlds
from cpt_plugin._other_packages import GROUPS, origin, parts_of_others
from cpt_plugin.data.manifest import manifest_names, manifest_of
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import (
    ALIASES,
    Part,
    added_parts,
    dataset_names,
    describe_parts,
    find_repository,
    first_line,
    has_dpc,
    parse_method,
    with_paper,
)


def lines(repository: Path | None = None) -> Iterator[str]:
    """The parts of method names, the data sets and the embedded worlds."""
    repository = repository or find_repository()
    yield f"methods: LEARNER{'[_dpc]' if has_dpc(repository) else ''}[_PART...], e.g. maple_cpt, maple_la_cptb"
    for part in describe_parts(repository):
        yield _line(part)
    yield from map(_line, _clashing(repository))
    for alias, name in ALIASES.items():
        if alias_is_here(alias, repository):
            yield f"  {'alias':<15} {alias:<14} {name}"
    yield "data sets:"
    for name in dataset_names(repository)[1:]:
        yield f"  {name:<18} {_data_set(name, repository)}"
    yield "  (which of them are here, and how to get the others: python -m cpt_plugin data list)"
    yield "embedded worlds (drawn by the program, no download; `shapes` is the first):"
    default = worlds.parse_world("")
    for world in sorted(worlds.NAMED_WORLDS, key=lambda world: world != default):
        yield f"  {world.name:<28} {world.num_classes} classes, half base, half new"


def _line(part: Part) -> str:
    described = _of_other_package(part) or part.description
    return f"  {part.kind:<15} {part.name:<14} {described}"


def _of_other_package(part: Part) -> str:
    """What another package says of its part, or why that is of no use; "" for parts of this repository."""
    group = GROUPS.get(part.kind, "")
    entries = parts_of_others(group).get(part.name)
    if not entries:
        return ""
    owner = origin(entries[0])
    try:
        cls = import_module(group).available([part.name])[part.name]
    except ConfigError as error:
        return f"(cannot be used: {error})"
    except ModuleNotFoundError as error:
        return f"(of {owner}; described where {error.name} is installed)"
    return f"{with_paper(cls.description, cls.paper)} ({owner})"


def _clashing(repository: Path) -> Iterator[Part]:
    """Parts of other packages under names that are taken by another kind of part."""
    known = added_parts(repository)
    for kind, group in GROUPS.items():
        for name in sorted(parts_of_others(group)):
            if known[name] != kind:
                yield Part(name, kind, "")


def _data_set(name: str, repository: Path) -> str:
    if name in manifest_names():
        return manifest_of(name).title
    file = repository / "datasets" / f"{name}.py"
    return (file.is_file() and first_line(file)) or "described by its yaml"


def alias_is_here(alias: str, repository: Path) -> bool:
    """Whether every part of an alias exists in this version."""
    try:
        parse_method(alias, repository)
    except ConfigError:
        return False
    return True
