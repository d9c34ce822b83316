"""What the configuration key PREC means on a given device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from cpt_plugin.errors import ConfigError

PRECISIONS = ("fp16", "fp32", "amp", "amp_bf16")


@dataclass(frozen=True)
class Precision:
    """Number formats of a run; learned prompts are float32 in all of them.

    Attributes:
        dtype: type of the frozen weights.
        autocast: type that autocast computes in, None for no autocast.
        use_scaler: whether the loss is scaled (`GradScaler`).
        note: one sentence for the log, "" if the request is met as it stands.
    """

    dtype: torch.dtype
    autocast: torch.dtype | None
    use_scaler: bool
    note: str

    @property
    def name(self) -> str:
        """What runs: "fp32", "fp16", "amp" or "amp_bf16", which on a CPU is not what was asked for."""
        kind = self.autocast or self.dtype
        if self.autocast is None:
            return {torch.float16: "fp16"}.get(kind, "fp32")
        return "amp" if kind == torch.float16 else "amp_bf16"

    def context(self, device: torch.device | str) -> AbstractContextManager[object]:
        """Context manager in which a forward pass runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=self.autocast)


def resolve_precision(prec: str, device: torch.device | str) -> Precision:
    """Number formats for the request `prec` (fp16, fp32, amp or amp_bf16) on `device`.

    Anything but a CUDA device computes in float32, and `note` says so: half precision on a CPU is 50 to
    150 times slower (and float16 there rounds differently from a GPU).

    Raises:
        ConfigError: `prec` is unknown, or the GPU cannot compute in bfloat16.
    """
    if prec not in PRECISIONS:
        raise ConfigError(f"precision {prec!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    kind = torch.device(device).type
    if kind != "cuda":
        note = (
            ""
            if prec == "fp32"
            else f"precision {prec} was asked for; on device {kind} everything runs in fp32"
        )
        return Precision(torch.float32, None, False, note)
    if prec == "amp_bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            "this GPU cannot compute in bfloat16; use precision amp or fp32 instead of amp_bf16"
        )
    return {
        "fp16": Precision(torch.float16, None, False, ""),
        "fp32": Precision(torch.float32, None, False, ""),
        "amp": Precision(torch.float32, torch.float16, True, ""),
        "amp_bf16": Precision(torch.float32, torch.bfloat16, False, ""),
    }[prec]
