"""What PREC means on each device."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin.encoders import precision
from cpt_plugin.encoders.precision import PRECISIONS, resolve_precision
from cpt_plugin.errors import ConfigError


@pytest.mark.parametrize("prec", PRECISIONS)
def test_a_cpu_runs_everything_in_float32_and_says_so(prec: str) -> None:
    found = resolve_precision(prec, "cpu")
    assert (found.dtype, found.autocast, found.use_scaler) == (torch.float32, None, False)
    assert (found.note == "") == (prec == "fp32")
    if found.note:
        assert prec in found.note
        assert "fp32" in found.note
    with found.context("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("prec", "weights", "autocast", "scaler"),
    [
        ("fp16", torch.float16, None, False),
        ("fp32", torch.float32, None, False),
        ("amp", torch.float32, torch.float16, True),
        ("amp_bf16", torch.float32, torch.bfloat16, False),
    ],
)
def test_a_gpu_runs_what_was_asked_for(
    prec: str,
    weights: torch.dtype,
    autocast: torch.dtype | None,
    scaler: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = resolve_precision(prec, torch.device("cuda:1"))
    assert (found.dtype, found.autocast, found.use_scaler, found.note) == (weights, autocast, scaler, "")


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="use precision amp or fp32"):
        resolve_precision("amp_bf16", "cuda")
    assert resolve_precision("amp", "cuda").use_scaler


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="'bf16' is unknown; choose one of fp16, fp32, amp, amp_bf16"):
        resolve_precision("bf16", "cpu")


def test_context_is_autocast_when_asked_for() -> None:
    mixed = precision.Precision(torch.float32, torch.bfloat16, False, "")
    with mixed.context("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
