"""CPT's three losses alone, forward and backward, at many classes."""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn import functional as F

from cpt_plugin.functional import ClusterBuckets, class_convergence, etf_separation, rotation_stabilization

WIDTH, BATCH, CLUSTER = 512, 32, 16


def losses(classes: int, repeats: int = 15) -> dict[str, float]:
    """Median seconds of processor time at K classes in clusters of about 16, their sizes those of a random draw."""
    generator = torch.Generator().manual_seed(0)
    clusters = -(-classes // CLUSTER)
    assignment = torch.randint(clusters, (classes,), generator=generator)
    _, assignment = assignment.unique(return_inverse=True)
    frozen = F.normalize(torch.randn(classes, WIDTH, generator=generator), dim=-1)
    text = (frozen + 0.1 * torch.randn(classes, WIDTH, generator=generator)).requires_grad_()
    image = torch.randn(BATCH, WIDTH, generator=generator)
    labels = torch.randint(classes, (BATCH,), generator=generator)
    buckets = ClusterBuckets.from_assignment(assignment)
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        total = 0.25 * etf_separation(text, buckets) + 0.15 * class_convergence(image, text, labels)
        (total + 0.1 * rotation_stabilization(text, frozen)).backward()
        times.append(time.process_time() - start)
        text.grad = None
    return {"seconds": statistics.median(times[1:]), "clusters": int(assignment.max()) + 1}
