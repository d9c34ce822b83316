"""Running values and averages of what a training step reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class AverageMeter:
    """Last value and mean of a series."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.val = self.sum = 0.0
        self.count = 0

    @property
    def avg(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def update(self, value: float | torch.Tensor, n: int = 1) -> None:
        self.val = float(value)
        self.sum += self.val * n
        self.count += n


class MetricMeter:
    """Named meters, printed as ``name value (mean)``."""

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: dict[str, AverageMeter] = {}
        self._delimiter = delimiter

    def update(self, values: Mapping[str, Any] | None) -> None:
        for name, value in (values or {}).items():
            self.meters.setdefault(name, AverageMeter()).update(value)

    def __str__(self) -> str:
        return self._delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())

    def brief(self, names: int = 2) -> str:
        """Means of the first few quantities, short enough to stand behind a progress bar."""
        return " ".join(f"{name} {meter.avg:.2f}" for name, meter in list(self.meters.items())[:names])

    def state_dict(self) -> dict[str, list[float]]:
        return {name: [m.val, m.sum, m.count] for name, m in self.meters.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meters = {}
        for name, (value, total, count) in state.items():
            meter = self.meters[name] = AverageMeter()
            meter.val, meter.sum, meter.count = value, total, count
