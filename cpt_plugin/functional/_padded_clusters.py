"""Clusters of several sizes padded to one, for devices that pay for each operation by the launch of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_PADDING = 4
"""Pairs of a padded group of clusters, at most, for each pair of its clusters."""


@dataclass(frozen=True, eq=False)
class PaddedClusters:
    """n clusters of k_m classes, each padded to the largest size k by repetition of its last class.

    Attributes:
        blocks: (number of clusters, size) of each size, large ones first.
        members: (n k,) class indices, cluster after cluster.
        targets: (n, 1, 1) the 1 / (k_m - 1) of each cluster.
        mask: (n, k, k) 1 for pairs of different classes, 0 on the diagonal and at padding.
        size: k.
    """

    blocks: tuple[tuple[int, int], ...]
    members: Tensor
    targets: Tensor
    mask: Tensor
    size: int

    @classmethod
    def groups(cls, order: Tensor, blocks: Sequence[tuple[int, int]], dtype: torch.dtype) -> list[PaddedClusters]:
        """As few groups as keep to :data:`MOST_PADDING`, from class indices (n,) of clusters, small ones first."""
        found: list[list[tuple[int, int]]] = []
        for block in sorted(blocks, key=lambda block: -block[1]):
            wider = [*found[-1], block] if found else []
            pairs = sum(count * size**2 for count, size in wider)
            if wider and sum(count for count, _ in wider) * wider[0][1] ** 2 <= MOST_PADDING * pairs:
                found[-1] = wider
            else:
                found.append([block])
        classes, made = order.tolist(), []
        for group in found:
            rows = sum(count * size for count, size in group)
            made.append(cls._of(tuple(group), classes[len(classes) - rows :], order.device, dtype))
            classes = classes[: len(classes) - rows]
        return made

    @classmethod
    def _of(
        cls, blocks: tuple[tuple[int, int], ...], classes: list[int], device: torch.device, dtype: torch.dtype
    ) -> PaddedClusters:
        sizes = torch.tensor([size for count, size in reversed(blocks) for _ in range(count)])
        place = torch.arange(int(sizes.max()))
        inside = place < sizes[:, None]
        index = (sizes.cumsum(0) - sizes)[:, None] + place.minimum(sizes[:, None] - 1)
        mask = inside[:, :, None] & inside[:, None, :] & ~torch.eye(len(place), dtype=torch.bool)
        members = torch.tensor(classes)[index].flatten()
        targets = (1 / (sizes.double() - 1)).view(-1, 1, 1)
        return cls(blocks, members.to(device), targets.to(device, dtype), mask.to(device, dtype), len(place))

    def scales(self, of_sizes: dict[int, float]) -> Tensor:
        """(n, 1, 1) numbers of the clusters from numbers of their sizes."""
        numbers = [of_sizes[size] for count, size in reversed(self.blocks) for _ in range(count)]
        return torch.tensor(numbers, dtype=self.mask.dtype).view(-1, 1, 1).to(self.mask.device)
