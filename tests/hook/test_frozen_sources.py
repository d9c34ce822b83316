"""Frozen text features and image prototypes that a hook finds by itself on a foreign trainer."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpt_plugin.encoders import tokenize
from cpt_plugin.errors import ConfigError, DataError, HookError
from cpt_plugin.hook import CPTHook
from tests.helpers.tiny_clip import tiny_clip
from tests.hook.foreign_trainer import NAMES, SIDE, ForeignTrainer, beside, clip_model, items, save_weights
from tests.hook.toy_regularizer import ToyRegularizer

SENTENCE = "a centered satellite photo of {}."


class NeedsPrototypes(ToyRegularizer):
    name: ClassVar[str] = "needs"
    needs_prototypes = True
    prototypes: Tensor | None = None

    def prepare_prototypes(self, prototypes: Tensor) -> None:
        assert self.frozen_text is not None, "prepare comes first"
        self.prototypes = prototypes


def loads(seed: int = 0) -> Any:
    return lambda cfg: clip_model(seed)


def attach(trainer: Any, template: str | None = None, regularizer: Any = None, **options: Any) -> Any:
    regularizer = regularizer or ToyRegularizer()
    if template is not None:
        regularizer.template = template
    CPTHook(regularizers=[regularizer], **options).attach(trainer).detach()
    return regularizer


def encoded(sentence: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    clip = tiny_clip(resolution=SIDE, patch=8, seed=seed, dtype=dtype)
    texts = [sentence.replace("{}", name.replace("_", " ")) for name in NAMES]
    return clip.model.encode_text(tokenize(texts, clip))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


# -- text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, "", "one {} alone"])
def test_class_names_in_the_template_by_the_loader_of_the_trainer(monkeypatch, template):
    found = attach(beside(monkeypatch, loads())(), template).frozen_text
    assert close(found, encoded(template or SENTENCE))
    assert not close(found, encoded("a photo of a {}."), 1e-2)
    assert not found.requires_grad


def test_ensemble_is_the_mean_of_unit_features(monkeypatch):
    from cpt_plugin.encoders.templates import ENSEMBLE

    found = attach(beside(monkeypatch, loads())(), "ensemble").frozen_text
    assert close(found, torch.stack([F.normalize(encoded(s), dim=-1) for s in ENSEMBLE]).mean(0))


@pytest.mark.parametrize("name", ["MyOwnPhotos", ""])
def test_a_data_set_without_template_gets_the_general_one_and_a_note(monkeypatch, caplog, name):
    with caplog.at_level(logging.INFO):
        found = attach(beside(monkeypatch, loads())(dataset=name)).frozen_text
    assert close(found, encoded("a photo of a {}."))
    assert "has no template of its own; using 'a photo of a {}.'" in caplog.text


def test_given_class_names_are_encoded(monkeypatch):
    regularizer = attach(beside(monkeypatch, loads())(), class_names=NAMES[::-1])
    assert close(regularizer.frozen_text, encoded(SENTENCE).flip(0))


def test_an_impossible_template(monkeypatch):
    with pytest.raises(ConfigError, match="exactly once"):
        attach(beside(monkeypatch, loads())(), "no place for the name")


def test_learned_prompts_of_the_loaded_model_are_left_out(monkeypatch):
    def loader(cfg: Any) -> Any:
        model = clip_model()
        model.visual.VPT = nn.Parameter(torch.ones(2, 64))
        model.transformer.resblocks[1].VPT_shallow = nn.Parameter(torch.ones(2, 64))
        return model

    assert close(attach(beside(monkeypatch, loader)()).frozen_text, encoded(SENTENCE))


def test_loader_beside_a_base_class(monkeypatch):
    derived = beside(monkeypatch, None, base=beside(monkeypatch, loads()))
    assert close(attach(derived()).frozen_text, encoded(SENTENCE))


def test_by_the_name_of_the_backbone(monkeypatch, tmp_path, caplog):
    trainer = beside(monkeypatch, None)(backbone=str(save_weights(tmp_path)))
    with caplog.at_level(logging.INFO):
        assert close(attach(trainer).frozen_text, encoded(SENTENCE))
    assert "no function load_clip_to_cpu(cfg) stands beside SomebodysTrainer" in caplog.text


def test_a_failing_loader_gives_way_to_the_name(monkeypatch, tmp_path, caplog):
    def loader(cfg: Any) -> Any:
        raise AttributeError("no TRAINER.X")

    trainer = beside(monkeypatch, loader)(backbone=str(save_weights(tmp_path)))
    with caplog.at_level(logging.INFO):
        assert close(attach(trainer).frozen_text, encoded(SENTENCE))
    assert "AttributeError: no TRAINER.X" in caplog.text


def test_neither_loader_nor_name(monkeypatch):
    with pytest.raises(HookError, match=r"no method frozen_text_features\(\).*stands beside.*'nothing'.*frozen_text="):
        attach(beside(monkeypatch, None)(backbone="nothing"))


def test_other_weights_than_the_trainer_runs_on(monkeypatch):
    message = r"names CLIP ViT-B/16, but its text encoder runs on other weights \(\S+ differs\).*frozen_text="
    with pytest.raises(HookError, match=message):
        attach(beside(monkeypatch, loads(seed=1))())
    wider = beside(monkeypatch, loads())()
    wider.model.text_encoder.text_projection = nn.Parameter(torch.ones(64, 48))
    with pytest.raises(HookError, match=r"text_projection differs"):
        attach(wider)


def test_weights_that_cannot_be_compared(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    trainer.model.text_encoder = nn.Linear(32, 32)
    with pytest.raises(HookError, match=r"cannot be checked \(no weights under CLIP's names\).*frozen_text="):
        attach(trainer)


def test_an_encoder_that_holds_clip_deeper_down(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    trainer.model.text_encoder = nn.Sequential(nn.ModuleDict({"clip": clip_model()}))
    assert close(attach(trainer).frozen_text, encoded(SENTENCE))
    trainer.model.text_encoder = nn.Sequential(nn.ModuleDict({"clip": clip_model(seed=1)}))
    with pytest.raises(HookError, match="runs on other weights"):
        attach(trainer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_trainer_in_half_precision(monkeypatch, dtype):
    trainer = beside(monkeypatch, loads())(clip=clip_model().to(dtype))
    found = attach(trainer).frozen_text
    assert found.dtype == torch.float32
    assert close(found, encoded(SENTENCE))


def test_a_trainer_in_double_precision(monkeypatch):
    trainer = beside(monkeypatch, loads())(clip=clip_model(dtype=torch.float64))
    found = attach(trainer).frozen_text
    assert found.dtype == torch.float64
    assert close(found, encoded(SENTENCE, dtype=torch.float64), 1e-12)


def test_nothing_is_drawn_and_the_trainer_is_as_before(monkeypatch):
    def draws(cfg: Any) -> Any:
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return clip_model()

    trainer = beside(monkeypatch, draws)()
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    attributes = dict(vars(trainer))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    attach(trainer, regularizer=NeedsPrototypes())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before
    assert vars(trainer) == attributes
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.model.prompts.requires_grad
    assert trainer.model.prompts.grad is None


def test_weight_zero_loads_nothing(monkeypatch):
    def loader(cfg: Any) -> Any:
        raise AssertionError("not needed")

    trainer = beside(monkeypatch, loader)()
    assert not CPTHook(weight_etf=0.0, weight_cc=0.0, weight_rs=0.0).attach(trainer).active


# -- prototypes ----------------------------------------------------------------------------------------------


def means_of_images(trainer: Any) -> Tensor:
    features: dict[int, list[Tensor]] = {}
    visual = tiny_clip(resolution=SIDE, patch=8).model.encode_image
    for item in trainer.dm.dataset.train_x:
        features.setdefault(item.label, []).append(F.normalize(visual(item.image[None]), dim=-1)[0])
    return torch.stack([torch.stack(features[label]).mean(0) for label in range(len(NAMES))])


def test_prototypes_are_class_means_of_the_training_images(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    found = attach(trainer, regularizer=NeedsPrototypes()).prototypes
    assert close(found, means_of_images(trainer))
    assert (found.norm(dim=1)[:3] < 1 - 1e-4).all(), "not scaled to length 1 again"
    assert not found.requires_grad


def test_only_regularizers_that_need_prototypes_get_them(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    trainer.frozen_image_prototypes = lambda: pytest.fail("not needed")
    attach(trainer)


def test_given_prototypes_and_those_of_the_trainer(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    own, given = torch.ones(len(NAMES), 32), torch.zeros(len(NAMES), 32)
    trainer.frozen_image_prototypes = lambda: own
    assert torch.equal(attach(trainer, regularizer=NeedsPrototypes()).prototypes, own)
    assert torch.equal(attach(trainer, regularizer=NeedsPrototypes(), prototypes=given).prototypes, given)


def test_given_text_and_computed_prototypes(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    regularizer = attach(trainer, regularizer=NeedsPrototypes(), frozen_text=torch.ones(len(NAMES), 32))
    assert close(regularizer.prototypes, means_of_images(trainer))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 32), r"prototypes has shape \(3, 32\) for 4 class names"),
        ((4,), r"prototypes has shape \(4,\) for 4 class names"),
        ((4, 31), "prototypes have 31 dimensions, the frozen text features 32"),
    ],
)
def test_prototypes_that_do_not_fit(monkeypatch, shape, message):
    with pytest.raises(HookError, match=message):
        attach(beside(monkeypatch, loads())(), regularizer=NeedsPrototypes(), prototypes=torch.ones(shape))


def test_a_class_without_images_is_named(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    trainer.dm.dataset.train_x = items([0, 1, 3])
    with pytest.raises(DataError, match="without training images: sushi;"):
        attach(trainer, regularizer=NeedsPrototypes())


def test_labels_beyond_the_class_names(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    trainer.dm.dataset.train_x = items([0, 1, 2, 3, 4])
    with pytest.raises(DataError, match="has label 4, but there are 4 class names"):
        attach(trainer, regularizer=NeedsPrototypes())


@pytest.mark.parametrize("missing", ["train_x", "test_loader"])
def test_a_trainer_without_images(monkeypatch, missing):
    trainer = beside(monkeypatch, loads())()
    dataset = SimpleNamespace(classnames=NAMES, train_x=[] if missing == "train_x" else items([0, 1, 2, 3]))
    trainer.dm = SimpleNamespace(dataset=dataset, test_loader=trainer.dm.test_loader if missing == "train_x" else None)
    with pytest.raises(HookError, match=r"from which image prototypes could be made: give CPTHook\(prototypes="):
        attach(trainer, regularizer=NeedsPrototypes())


def test_another_image_encoder_matters_for_prototypes_only(monkeypatch):
    trainer = beside(monkeypatch, loads())()
    trainer.model.image_encoder = clip_model(seed=1).visual
    assert close(attach(trainer).frozen_text, encoded(SENTENCE))
    with pytest.raises(HookError, match=r"its image encoder runs on other weights.*prototypes="):
        attach(trainer, regularizer=NeedsPrototypes())


def test_importing_the_hook_loads_no_encoders():
    code = "import sys, cpt_plugin.hook; print([m for m in sys.modules if m.startswith('cpt_plugin.encoders')])"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_training_goes_on_with_what_was_found(monkeypatch):
    trainer: ForeignTrainer = beside(monkeypatch, loads())()
    handle = CPTHook(weight_etf=1.0, weight_cc=0.0, weight_rs=1.0, cluster_size=2).attach(trainer)
    summary = trainer.forward_backward({"img": torch.randn(4, 3, SIDE, SIDE), "label": torch.arange(4)})
    assert {"loss", "loss_reg", "loss_etf", "loss_rs"} == summary.keys()
    assert handle.parts.keys() == {"etf", "rs"}
