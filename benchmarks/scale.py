"""CPT's three losses alone, forward and backward, at many classes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from cpt_plugin.functional import ClusterBuckets, class_convergence, etf_separation, rotation_stabilization

WIDTH, BATCH, CLUSTER = 512, 32, 16


def losses_step(classes: int, device: torch.device | str = "cpu") -> tuple[Callable[[], None], int]:
    """A forward and backward pass at K classes in clusters of about 16, their sizes those of a random draw.

    Returns it and the number of clusters.
    """
    generator = torch.Generator().manual_seed(0)
    clusters = -(-classes // CLUSTER)
    assignment = torch.randint(clusters, (classes,), generator=generator)
    _, assignment = assignment.unique(return_inverse=True)
    frozen = F.normalize(torch.randn(classes, WIDTH, generator=generator), dim=-1)
    text = (frozen + 0.1 * torch.randn(classes, WIDTH, generator=generator)).to(device).requires_grad_()
    image = torch.randn(BATCH, WIDTH, generator=generator).to(device)
    labels = torch.randint(classes, (BATCH,), generator=generator).to(device)
    frozen = frozen.to(device)
    buckets = ClusterBuckets.from_assignment(assignment).to(frozen.device)

    def step() -> None:
        text.grad = None
        total = 0.25 * etf_separation(text, buckets) + 0.15 * class_convergence(image, text, labels)
        (total + 0.1 * rotation_stabilization(text, frozen)).backward()

    return step, int(assignment.max()) + 1


def losses(classes: int, repeats: int = 15) -> dict[str, float]:
    """Median seconds of processor time at K classes, and the number of clusters; the first step does not count."""
    step, clusters = losses_step(classes)
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return {"seconds": statistics.median(times[1:]), "clusters": clusters}
