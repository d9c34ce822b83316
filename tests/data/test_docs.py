"""docs/datasets.md says what the manifests say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpt_plugin.data.manifest import manifest_of
from tests.helpers.fixtures.loading import CORE_SETS

TABLE = {
    cells[1].strip(" `"): cells
    for line in (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text().splitlines()
    if len(cells := line.split("|")) == 9
}


@pytest.mark.parametrize("name", CORE_SETS)
def test_the_table_agrees_with_the_manifest(name: str) -> None:
    manifest, cells = manifest_of(name), TABLE[name]
    counts = manifest.counts
    assert cells[2].strip() == f"`{manifest.folder}/`"
    assert all(part in cells[3] for part in (*manifest.images, manifest.split))
    assert int(cells[4]) == counts.classes
    assert cells[5].strip() == f"{counts.train:,} / {counts.val:,} / {counts.test:,}"
    assert cells[6].strip() == f"`{manifest.template}`"
