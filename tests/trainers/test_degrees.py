"""Degrees of neural collapse at every epoch: from what they are computed, where they show, what a resume keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin.functional import isomorphism_degree, language_collapse_degree
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.trainers.problems import raises_at, saved
from trainers._base import PromptTrainer
from trainers._degrees import EpochFeatures

KEYS = {"lcd_cos", "lcd_fro", "mid_cos", "mid_fro"}


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_class_means_over_the_epoch_and_text_of_the_last_step() -> None:
    features = EpochFeatures(5)
    images, labels = unit(8, 6, seed=0), torch.tensor([0, 3, 3, 1, 0, 3, 1, 1])
    texts = unit(2, 5, 6, seed=1)
    features.add(images[:4], texts[0], labels[:4])
    features.add(images[4:], texts[1], labels[4:])
    means = torch.stack([images[labels == label].mean(0) for label in (0, 1, 3)])
    seen = texts[1][[0, 1, 3]]
    assert features.degrees() == pytest.approx(
        {
            "lcd_cos": language_collapse_degree(texts[1]).item(),
            "lcd_fro": language_collapse_degree(texts[1], "frobenius").item(),
            "mid_cos": isomorphism_degree(means, seen).item(),
            "mid_fro": isomorphism_degree(means, seen, "frobenius").item(),
        }
    )


def test_text_of_each_image_counts_by_its_mean_and_half_precision_is_summed_in_float32() -> None:
    features, texts = EpochFeatures(4), unit(3, 4, 6, seed=2)
    features.add(unit(3, 6, seed=3).half(), texts.half(), torch.tensor([0, 1, 2]))
    expected = language_collapse_degree(texts.mean(0)).item()
    assert features.degrees()["lcd_cos"] == pytest.approx(expected, abs=1e-3)
    assert features.state_dict()["sums"].dtype == torch.float32


def test_what_is_not_defined_is_left_out() -> None:
    assert EpochFeatures(4).degrees() == {}
    features = EpochFeatures(4)
    features.add(unit(2, 6, seed=0), unit(4, 6, seed=1), torch.tensor([2, 2]))
    assert set(features.degrees()) == {"lcd_cos", "lcd_fro"}
    single = EpochFeatures(1)
    single.add(unit(2, 6, seed=0), unit(1, 6, seed=1), torch.tensor([0, 0]))
    assert single.degrees() == {}


def test_every_epoch_is_in_the_log_and_in_the_history(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trainer = train(prompt_cfg(folder, tmp_path, "CoOpCPT"))
    found = [r for r in caplog.records if r.getMessage().startswith(("degrees of neural collapse", "profile of epoch"))]
    assert len(found) == 6
    assert all(r.file_only for r in found), "not on the console"
    lines = [r.getMessage() for r in found if not r.getMessage().startswith("profile")]
    assert len(lines) == len(trainer.history) == 3
    for epoch, (line, values) in enumerate(zip(lines, trainer.history, strict=True), start=1):
        assert line.startswith(f"degrees of neural collapse, epoch {epoch}/3: ")
        assert {"loss", "acc", "loss_reg", "loss_etf", "loss_cc", "loss_rs"} | KEYS <= set(values)
        assert all(re.search(rf"{key} {values[key]:.4f}", line) for key in KEYS)
    assert saved(tmp_path)["history"] == trainer.history


def test_a_run_resumed_inside_an_epoch_has_the_same_history(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(prompt_cfg(folder, tmp_path / "whole", "CoOp"))
    step = whole.num_batches + 1
    original: Any = PromptTrainer.forward_backward
    monkeypatch.setattr(PromptTrainer, "forward_backward", raises_at(step, original, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(prompt_cfg(folder, tmp_path / "cut", "CoOp"))
    monkeypatch.setattr(PromptTrainer, "forward_backward", original)
    resumed = train(prompt_cfg(folder, tmp_path / "cut", "CoOp", "RESUME", tmp_path / "cut"))
    assert whole.num_batches > 1
    assert resumed.history == whole.history
    assert len({values["mid_cos"] for values in whole.history}) == 3
