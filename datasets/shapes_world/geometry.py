"""Shapes as signed distances: negative inside, about one unit of length per unit of value."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SignedDistance = Callable[[Tensor, Tensor], Tensor]


def _maximum(*terms: Tensor) -> Tensor:
    """Intersection of regions."""
    result = terms[0]
    for term in terms[1:]:
        result = torch.maximum(result, term)
    return result


def _sector(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Fold the plane into one of ``count`` equal sectors around the upward axis."""
    width = 2 * math.pi / count
    angle = torch.atan2(x, y)
    folded = torch.remainder(angle + width / 2, width) - width / 2
    radius = torch.hypot(x, y)
    return radius * folded.sin(), radius * folded.cos()


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.88


def _oval(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x / 0.52, y) - 1) * 0.6


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.70).abs() - 0.23


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 0.95, 0.75 - torch.hypot(x - 0.45, y))


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _sector(x, -(y + 0.2), 3)[1] - 0.55


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.76


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() / 0.62 + y.abs() / 1.02 - 1) * 0.53


def _pentagon(x: Tensor, y: Tensor) -> Tensor:
    return _sector(x, -y, 5)[1] - 0.76


def _star(x: Tensor, y: Tensor) -> Tensor:
    tip, notch, half = 1.08, 0.42, math.pi / 5
    across, along = _sector(x, y, 5)
    edge_x, edge_y = notch * math.sin(half), notch * math.cos(half) - tip
    return (across.abs() * -edge_y + (along - tip) * edge_x) / math.hypot(edge_x, edge_y)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    upright = torch.maximum(x.abs() - 0.29, y.abs() - 0.95)
    level = torch.maximum(y.abs() - 0.29, x.abs() - 0.95)
    return torch.minimum(upright, level)


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    shaft = _maximum(x.abs() - 0.2, -y - 0.95, y - 0.2)
    head = torch.maximum(0.05 - y, (x.abs() + 0.75 * (y - 1.05)) / 1.25)
    return torch.minimum(shaft, head)


def _gear(x: Tensor, y: Tensor) -> Tensor:
    radius, angle = torch.hypot(x, y), torch.atan2(x, y)
    return torch.maximum(radius - 0.78 - 0.16 * torch.tanh(4 * torch.cos(8 * angle)), 0.28 - radius)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    lobe = torch.hypot(x.abs() - 0.42, y - 0.32) - 0.46
    wedge = torch.maximum(0.7835 * x.abs() - 0.6214 * (y + 0.95), y - 0.42)
    return torch.minimum(lobe, wedge)


def _flower(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.70 - 0.27 * torch.cos(6 * torch.atan2(x, y))) * 0.8


def _house(x: Tensor, y: Tensor) -> Tensor:
    body = _maximum(x.abs() - 0.6, -y - 0.8, y - 0.2)
    roof = torch.maximum(0.1 - y, (0.9 * x.abs() + 0.85 * (y - 1)) / 1.24)
    return torch.minimum(body, roof)


def _drop(x: Tensor, y: Tensor) -> Tensor:
    belly = torch.hypot(x, y + 0.28) - 0.62
    tip = torch.maximum(0.8847 * x.abs() + 0.4662 * (y - 1.05), -y)
    return torch.minimum(belly, tip)


SIGNED_DISTANCES: dict[str, SignedDistance] = {
    "circle": _circle,
    "oval": _oval,
    "ring": _ring,
    "crescent": _crescent,
    "triangle": _triangle,
    "square": _square,
    "diamond": _diamond,
    "pentagon": _pentagon,
    "star": _star,
    "cross": _cross,
    "arrow": _arrow,
    "gear": _gear,
    "heart": _heart,
    "flower": _flower,
    "house": _house,
    "drop": _drop,
}
"""Signed distance of each upright shape, within about the unit disc, as a function of x and y (y upwards)."""
