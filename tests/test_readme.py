"""The README's Python runs as it stands, and its commands name files that exist."""

from __future__ import annotations

import re

import pytest
import torch

from cpt_plugin import toolkit
from cpt_plugin.cli.repository import ROOT
from tests.helpers.prompt_runs import prepare, prompt_cfg

README = (ROOT / "README.md").read_text()


def test_python_block_runs(tmp_path):
    prepare(tmp_path)
    trainer = toolkit.build_trainer(prompt_cfg(tmp_path, tmp_path / "out", "CoOp", "OPTIM.MAX_EPOCH", 1))
    names = trainer.dm.dataset.classnames
    features = torch.nn.functional.normalize(torch.randn(len(names), 8, generator=torch.Generator().manual_seed(0)))
    scope = {
        "trainer": trainer,
        "frozen_text": features,
        "class_names": names,
        "image_features": torch.ones(3, 8),
        "text_features": features.clone().requires_grad_(),
        "labels": torch.tensor([0, 1, 1]),
    }
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(block, scope)
    assert scope["handle"].parts.keys() == scope["parts"].keys() == {"etf", "cc", "rs"}
    assert scope["total"].requires_grad


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:scripts|configs|cpt_plugin)/[\w/.]+", README))))
def test_paths_exist(path):
    assert (ROOT / path.rstrip(".")).exists()


def test_fits_two_screens():
    assert len(README.splitlines()) <= 80
    assert max(map(len, README.splitlines())) <= 120
