"""Every refusal at attaching states its reason and its remedy, and leaves the trainer as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook import CPTHook
from tests.hook.toy_regularizer import ToyRegularizer, toy_hook
from tests.hook.toy_trainers import CLASSES, WIDTH, CoOpTrainer


@pytest.mark.parametrize("name", ["text_encoder", "image_encoder"])
def test_no_encoder(name):
    trainer = CoOpTrainer()
    delattr(trainer.model, name)
    with pytest.raises(HookError, match=rf"no module `{name}` .*PromptKD.*VPT.*name the module whose output"):
        toy_hook(frozen_text=torch.ones(CLASSES, WIDTH)).attach(trainer)


def test_an_encoder_that_is_no_module():
    trainer = CoOpTrainer()
    encoder = trainer.model.text_encoder
    del trainer.model.text_encoder
    trainer.model.text_encoder = lambda prompts: encoder(prompts)
    with pytest.raises(HookError, match="no module `text_encoder`"):
        toy_hook(frozen_text=torch.ones(CLASSES, WIDTH)).attach(trainer)


def test_data_parallel():
    trainer = CoOpTrainer()
    trainer.model = nn.DataParallel(trainer.model)
    with pytest.raises(HookError, match=r"DataParallel.*CUDA_VISIBLE_DEVICES=0"):
        toy_hook().attach(trainer)


def test_compiled_model():
    trainer = CoOpTrainer()
    trainer.model = torch.compile(trainer.model, backend="eager")
    with pytest.raises(HookError, match=r"torch\.compile.*attach to the plain model"):
        toy_hook().attach(trainer)


def test_model_compiled_in_place():
    trainer = CoOpTrainer()
    trainer.model.compile(backend="eager")
    with pytest.raises(HookError, match=r"torch\.compile.*attach to the plain model"):
        toy_hook().attach(trainer)


@pytest.mark.parametrize("trainer", [SimpleNamespace(), SimpleNamespace(model=nn.Linear(1, 1)), object()])
def test_not_a_trainer(trainer):
    with pytest.raises(HookError, match="after its model was built, or use CPTLoss"):
        toy_hook().attach(trainer)


def test_no_frozen_text_features(monkeypatch):
    monkeypatch.delattr("tests.hook.toy_trainers.ToyTrainer.frozen_text_features")
    with pytest.raises(HookError, match=r"no method frozen_text_features.*give CPTHook\(frozen_text="):
        toy_hook().attach(CoOpTrainer())


def test_different_templates():
    named = [ToyRegularizer(), ToyRegularizer()]
    for regularizer, name, template in zip(named, ("a", "b"), ("", "one {}."), strict=True):
        regularizer.name, regularizer.template = name, template
    with pytest.raises(ConfigError, match=r"different templates \(a '', b 'one \{\}\.'\): give one"):
        CPTHook(regularizers=named).attach(CoOpTrainer())
    named[0].weight = 0
    with pytest.raises(HookError, match="takes no template"):
        CPTHook(regularizers=named).attach(CoOpTrainer())


def test_template_beside_given_features():
    with pytest.raises(ConfigError, match=r"frozen_text and the template 'one \{\}\.' were both given"):
        CPTHook(template="one {}.", frozen_text=torch.ones(CLASSES, WIDTH)).attach(CoOpTrainer())


def test_template_that_the_trainer_cannot_take():
    with pytest.raises(HookError, match=r"takes no template, so 'one \{\}\.' would be ignored.*frozen_text="):
        CPTHook(template="one {}.").attach(CoOpTrainer())


def test_no_class_names():
    trainer = CoOpTrainer()
    trainer.dm = None
    with pytest.raises(HookError, match=r"no dm\.dataset\.classnames: give CPTHook\(class_names="):
        toy_hook().attach(trainer)


@pytest.mark.parametrize("shape", [(CLASSES - 1, WIDTH), (CLASSES,), (1, CLASSES, WIDTH)])
def test_frozen_text_and_class_names_that_differ(shape):
    with pytest.raises(HookError, match=f"for {CLASSES} class names: give one row"):
        toy_hook(frozen_text=torch.ones(shape)).attach(CoOpTrainer())


def test_attached_twice_by_another_hook():
    trainer = CoOpTrainer()
    handle = toy_hook().attach(trainer)
    with pytest.raises(HookError, match=r"attached to this trainer already: detach\(\) it first"):
        toy_hook().attach(trainer)
    handle.detach()
    assert toy_hook().attach(trainer).active


def test_attached_twice_by_the_same_hook():
    both = toy_hook()
    handle = both.attach(CoOpTrainer())
    with pytest.raises(HookError, match=r"attached already: detach\(\) its handle, or make another"):
        both.attach(CoOpTrainer())
    handle.detach()
    assert both.attach(CoOpTrainer()).active


def test_a_refused_trainer_is_left_untouched():
    trainer = CoOpTrainer()
    trainer.dm = None
    with pytest.raises(HookError):
        toy_hook().attach(trainer)
    assert "forward_backward" not in vars(trainer)
    assert not trainer.model._forward_hooks
    assert not trainer.model.text_encoder._forward_hooks


@pytest.mark.parametrize("accumulation", [0, -1, True])
def test_impossible_accumulation(accumulation):
    with pytest.raises(ConfigError, match="give the number of steps, at least 1"):
        toy_hook(accumulation=accumulation)


def test_options_beside_regularizers():
    with pytest.raises(ConfigError, match=r"weight_etf.*leave regularizers= out"):
        toy_hook(weight_etf=0.1)


def test_misspelled_option_names_the_nearest():
    with pytest.raises(ConfigError, match="WEIGHT_ETF"):
        CPTHook(weight_eft=0.1)
