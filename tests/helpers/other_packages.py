"""Packages that look installed: modules and the metadata that an installer writes, in a folder for ``sys.path``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

WIDE = '''\
from cpt_plugin.functional import etf_separation
from cpt_plugin.regularizers import Regularizer, register

@register
class Wide(Regularizer):
    name, config_node, paper, description = "wide", "WIDE", "none", "one simplex over all classes"

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    @property
    def active(self):
        return self.weight > 0

    def compute(self, batch):
        one_cluster = batch.labels.new_zeros(batch.text.shape[-2])
        return {"wide": self.weight * etf_separation(batch.text, one_cluster, "pair_mean")}
'''


def install(
    folder: Path, files: Mapping[str, str], points: Mapping[str, str], name: str = "my-losses", group: str = ""
) -> Path:
    """Write modules by path, and under the distribution `name` 1.0 an entry point for each of `points`."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    texts = {
        **{str(folder / path): text for path, text in files.items()},
        str(metadata / "METADATA"): f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        str(metadata / "entry_points.txt"): "\n".join(
            [f"[{group or 'cpt_plugin.regularizers'}]", *(f"{key} = {value}" for key, value in points.items()), ""]
        ),
    }
    for path, text in texts.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    return folder
