"""Where the data lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpt_plugin._paths import from_home


def data_root(cfg: Any) -> Path:
    """The data folder, absolute."""
    return from_home(cfg.DATASET.ROOT).absolute()
