"""Synthetic records."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cpt_plugin.results.record import RunRecord
from tests.helpers import records


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """Builds a valid record; keyword arguments replace fields."""
    return records.make_record
