"""Names of the embedded worlds: parsing, refusals, and what may be imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cpt_plugin.errors import ConfigError
from cpt_plugin.worlds import DEFAULT_DOMAINS, NAMED_WORLDS, World, parse_world

REPOSITORY = Path(__file__).resolve().parents[1]


def test_short_and_long_forms() -> None:
    default = World("triples", DEFAULT_DOMAINS["triples"])
    assert parse_world("") == parse_world("shapes") == parse_world("triples") == default
    warped = World("color_shape", "warp")
    assert parse_world("shapes:color_shape:warp") == parse_world("color_shape:warp") == warped
    assert parse_world("shapes:shapes").class_set == "shapes"
    assert parse_world("shapes:shapes:rot") == parse_world("shapes:rot") == World("shapes", "rot")


def test_names_round_trip_and_at_least_eight_worlds_are_named() -> None:
    assert len({world.name for world in NAMED_WORLDS}) == len(NAMED_WORLDS) >= 8
    assert parse_world("") in NAMED_WORLDS
    for world in NAMED_WORLDS:
        assert parse_world(world.name) == world


@pytest.mark.parametrize(
    ("text", "near"),
    [("shapes:tripels", "triples"), ("texture-shape:clean", "texture_shape"), ("triples:tnit", "tint")],
)
def test_a_wrong_name_is_answered_with_the_nearest(text: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"in '{text}'; nearest: '{near}'; possible: .*crowd"):
        parse_world(text)


def test_too_many_parts() -> None:
    with pytest.raises(ConfigError, match="too many parts"):
        parse_world("shapes:triples:clean:more")


def test_naming_a_world_needs_neither_torch_nor_the_code_that_draws_it() -> None:
    code = (
        "import sys; from cpt_plugin.cli.listing import lines; from cpt_plugin.methods import parse_dataset;"
        "parse_dataset('shapes:colors'); assert any('shapes:colors:shift' in line for line in lines());"
        "heavy = {'torch', 'numpy', 'PIL', 'datasets'} & sys.modules.keys(); sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
