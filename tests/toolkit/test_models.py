"""Accuracy of a batch, parameter counts, initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cpt_plugin.errors import CheckpointError
from cpt_plugin.toolkit.embedded.checkpoint import save_checkpoint
from cpt_plugin.toolkit.embedded.models import compute_accuracy, count_num_param, load_pretrained_weights


def test_top_k_accuracy():
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.1, 0.3], [0.2, 0.3, 0.9], [0.1, 0.2, 0.9]])
    target = torch.tensor([1, 2, 0, 2])
    first, second = compute_accuracy(logits, target, topk=(1, 2))
    assert (first.shape, first.item(), second.item()) == ((1,), 50.0, 75.0)
    assert compute_accuracy((logits, None), target, topk=(5,))[0].item() == 100.0


def test_parameter_counts():
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight]}, {"params": model.bias}]
    assert (
        count_num_param(model)
        == count_num_param(params=model.parameters())
        == count_num_param(params=groups)
        == 8
    )
    with pytest.raises(ValueError, match="model or its parameters"):
        count_num_param()


def test_fitting_weights_are_loaded_and_others_named(tmp_path, caplog):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    save_checkpoint({"state_dict": {**state, "other": torch.zeros(1)}}, tmp_path / "weights")
    load_pretrained_weights(target, str(tmp_path / "weights"))
    assert torch.equal(target.weight, source.weight)
    assert "other" in caplog.text
    with pytest.raises(CheckpointError, match="no weight"):
        load_pretrained_weights(nn.Conv2d(1, 1, 1), str(tmp_path / "weights"))
