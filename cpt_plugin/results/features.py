"""Features of one finished run, kept beside its record: what heat maps and t-SNE are drawn from; needs numpy only."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpt_plugin.atomic import atomic_write
from cpt_plugin.errors import RecordError
from cpt_plugin.results.groups import ranks_of
from cpt_plugin.results.record import RunRecord

FILE = "features.npz"
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Features:
    """Unit features of one run's trained prompts on test images of K classes.

    text: (K, d); frozen_text: (K, d), without learned prompts; image: (N, d); labels: (N,); clusters: (K,), by
    frozen_text. class_names: K; class_counts: (K,) training images, or none of classes that were not trained on;
    by_schedule: whether they may not be what the data held.
    prompts_hash, backbone: of the record that they belong to; classes: base, new or all.
    """

    method: str
    prompt_learner: str
    dataset: str
    tau: float
    protocol: str
    seed: int
    classes: str
    prompts_hash: str
    backbone: str
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    by_schedule: bool
    clusters: tuple[int, ...]
    text: Floats
    frozen_text: Floats
    image: Floats
    labels: NDArray[np.int64]

    _ARRAYS = ("text", "frozen_text", "image", "labels")

    @property
    def ranks(self) -> tuple[int, ...]:
        """(K,) 0 for the class with the most training images; the label where the classes were not trained on."""
        return tuple(ranks_of(self.class_counts or [0] * len(self.class_names)))

    def of(self, record: RunRecord) -> Features:
        """The same, with what the run's record says of the protocol and the training images."""
        trained = self.classes == record.trained.classes
        counts = record.class_counts if trained else ()
        return dataclasses.replace(
            self, protocol=record.protocol, class_counts=counts, by_schedule=trained and record.by_schedule
        )

    def save(self, path: Path) -> None:
        """Write them, whole or not at all; the same features give the same bytes."""
        plain = {key: value for key, value in vars(self).items() if key not in self._ARRAYS}
        stream = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self._ARRAYS}
        np.savez_compressed(stream, about=np.array(json.dumps(plain, sort_keys=True)), **arrays)
        atomic_write(path, stream.getvalue())


def load(path: str | Path) -> Features:
    """Read features.

    Raises:
        RecordError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            plain: dict[str, Any] = json.loads(str(file["about"]))
            values: dict[str, Any] = {name: file[name] for name in Features._ARRAYS}
            plain.pop("ranks", None)  # of older files, which lack the two values set here
            values |= {"class_counts": (), "by_schedule": False}
            values |= {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
            return Features(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: features cannot be read ({error}): delete the file, and make them again") from error


def effective_rank(matrix: NDArray[Any]) -> float:
    """exp(-sum_i p_i log p_i) with p_i the singular values scaled to sum 1: 1 .. the smaller side; 0 for zeros.

    Source: Roy and Vetterli (EUSIPCO 2007); that CPT's figure means this one is our reading.
    """
    values = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
    if not values.sum() > 0:
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
