"""Prototypes of the frozen image encoder: class means of unit features in the evaluation view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.errors import DataError
from cpt_plugin.toolkit import build_transform
from tests.helpers.prompt_runs import prompt_cfg


def build(folder: Path, output: Path, *options: Any) -> Any:
    return toolkit.build_trainer(prompt_cfg(folder, output, "CoOp", *options))


def test_prototypes_are_the_class_means_of_unit_features(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, tmp_path)
    view = build_transform(trainer.cfg, is_train=False)
    expected: dict[int, list[torch.Tensor]] = {}
    for item in trainer.dm.dataset.train_x:
        with Image.open(item.impath) as image:
            feature = trainer.clip.model.encode_image(view(image.convert("RGB"))[None])
        expected.setdefault(item.label, []).append(F.normalize(feature[0].double(), dim=0))
    prototypes = trainer.frozen_image_prototypes()
    assert prototypes.dtype == torch.float32
    for label, features in expected.items():
        assert (prototypes[label] - torch.stack(features).mean(0)).abs().max() < 1e-6
    assert (prototypes.norm(dim=1) < 1).all(), "means of several unit vectors, not scaled again"


def test_prototypes_draw_nothing_and_do_not_depend_on_the_batch(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, tmp_path)
    before = torch.get_rng_state()
    prototypes = trainer.frozen_image_prototypes()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(trainer.frozen_image_prototypes(), prototypes)
    others = build(folder, tmp_path / "other", "DATALOADER.TEST.BATCH_SIZE", 3).frozen_image_prototypes()
    assert (others - prototypes).abs().max() < 1e-6


def test_a_class_without_images_is_named(folder: Path, tmp_path: Path) -> None:
    trainer = build(folder, tmp_path)
    data, name = trainer.dm.dataset, trainer.dm.dataset.classnames[2]
    data._train_x = [item for item in data.train_x if item.label != 2]
    with pytest.raises(DataError, match=f"without training images: .*{name}"):
        trainer.frozen_image_prototypes()
