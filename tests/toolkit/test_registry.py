"""Registries: registration, look-up, refusals."""

from __future__ import annotations

import pytest

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.registry import Registry


def test_register_as_decorator_and_as_call():
    registry = Registry("THING")

    @registry.register()
    class First: ...

    class Second: ...

    assert registry.register(Second) is Second
    assert registry.get("First") is First
    assert registry.registered_names() == ["First", "Second"]
    assert "Second" in registry


def test_second_registration_needs_force():
    registry = Registry("THING")

    class Item: ...

    registry.register(Item)
    with pytest.raises(KeyError, match="Item"):
        registry.register(Item)
    registry.register(Item, force=True)


def test_unknown_name_suggests_the_nearest():
    registry = Registry("THING")

    class CoOp: ...

    registry.register(CoOp)
    with pytest.raises(ConfigError, match="did you mean 'CoOp'") as caught:
        registry.get("CooP")
    assert isinstance(caught.value, KeyError)
    assert not str(caught.value).startswith('"')
    with pytest.raises(ConfigError, match="known: CoOp"):
        registry.get("xyzzy")
