"""CPT's losses at 21,000 classes: memory, number of operations, no waiting for a device, counted on the meta device.

On it nothing is computed; an operation that needs a number on the host, which would make a GPU wait, raises.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cpt_plugin.functional import ClusterBuckets, class_convergence, etf_separation, rotation_stabilization
from cpt_plugin.functional.etf import REDUCTIONS

K, D, B = 21_000, 512, 32
UNEVEN = torch.cat([torch.zeros(2000, dtype=torch.long), torch.arange(K - 2000) // 16 + 1])
EVEN = torch.arange(K) // 16


class Counter(TorchDispatchMode):
    """Operations that make a tensor, and the numbers in the tensors they make."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.largest = self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append(str(func))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.largest = max(self.largest, out.numel())
            self.made += out.numel()
        return out


def step(assignment: torch.Tensor, reduction: str = "frobenius", device: str = "meta") -> Counter:
    """All three losses, forward and backward."""
    classes = len(assignment)
    buckets = ClusterBuckets.from_assignment(assignment).to(torch.device(device))
    text = torch.ones(classes, D, device=device, requires_grad=True)
    frozen, image = torch.ones(classes, D, device=device), torch.ones(B, D, device=device, requires_grad=True)
    labels = torch.zeros(B, dtype=torch.long, device=device)
    with Counter() as counter:
        loss = etf_separation(text, buckets, reduction) + class_convergence(image, text, labels)
        (loss + rotation_stabilization(text, frozen)).backward()
    return counter


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("assignment", [EVEN, UNEVEN], ids=["even", "one cluster of 2000"])
def test_memory_is_that_of_the_features_and_of_the_clusters(assignment: torch.Tensor, reduction: str) -> None:
    pairs = int(assignment.bincount().square().sum())
    counter = step(assignment, reduction)
    assert counter.largest <= max(K * D, pairs)
    assert counter.made <= 29 * K * D + 6 * pairs < K * K


def test_operations_do_not_grow_with_the_number_of_clusters() -> None:
    few, many = (step(torch.arange(16 * clusters) // 16) for clusters in (10, 1000))
    assert few.operations == many.operations
    assert len(many.operations) < 210


def test_operations_grow_with_the_number_of_different_sizes_only() -> None:
    """Three more sizes: their operations, whatever the number of clusters."""
    sizes = torch.tensor([3, 4, 5, 6])
    costs = [
        len(step(torch.repeat_interleave(torch.arange(len(s)), s)).operations)
        for s in (sizes.new_tensor([3]), sizes, sizes.repeat(50))
    ]
    assert costs[0] < costs[1] == costs[2]


def test_a_dense_matrix_would_be_seen() -> None:
    """Positive control: what the counter says of one cluster of all classes."""
    counter = step(torch.zeros(3000, dtype=torch.long))
    assert counter.largest == 3000 * 3000


def test_waiting_for_the_device_would_be_seen() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").sum().item()
    assert not [name for name in step(EVEN).operations if "local_scalar" in name or "nonzero" in name]
