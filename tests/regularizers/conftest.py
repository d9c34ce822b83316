"""A registry whose content a test may change."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from cpt_plugin.regularizers import REGISTRY


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test enters is gone after it, and modules that it imported are imported anew."""
    before, modules = dict(REGISTRY), set(sys.modules)
    monkeypatch.setattr(REGISTRY, "_joined", set())
    monkeypatch.setattr(REGISTRY, "_refused", {})
    yield
    REGISTRY.clear()
    REGISTRY.update(before)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("my_losses", "theirs"):
            del sys.modules[name]
