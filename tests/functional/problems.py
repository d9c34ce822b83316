"""Strategies shared by the tests of the loss functions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LOSS_PROPERTY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def problems(draw: st.DrawFn, max_classes: int = 9) -> dict[str, torch.Tensor]:
    """Random float64 features of random shape and length, labels and a cluster assignment."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(1, max_classes))
    width = draw(st.integers(1, 9))
    batch = draw(st.integers(1, 7))
    scale = 10.0 ** draw(st.integers(-3, 3))
    clusters = draw(st.integers(1, classes))
    return {
        "text": torch.tensor(rng.normal(size=(classes, width)) * scale + rng.normal(size=width)),
        "frozen": torch.tensor(rng.normal(size=(classes, width)) + rng.normal(size=width)),
        "image": torch.tensor(rng.normal(size=(batch, width)) * scale),
        "labels": torch.tensor(rng.integers(0, classes, size=batch)),
        "assignment": torch.tensor(rng.integers(0, clusters, size=classes)),
        "per_image": torch.tensor(rng.normal(size=(batch, classes, width))),
        "classes": torch.tensor(rng.permutation(classes)),
        "rotation": torch.tensor(np.linalg.qr(rng.normal(size=(width, width)))[0]),
    }
