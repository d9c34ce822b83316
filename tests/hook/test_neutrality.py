"""R10: without weight, or after detach, training is bit-identical to the plain one and nothing is left."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from cpt_plugin.hook import CPTHook
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import TRAINERS, CoOpTrainer

ABSENT = {
    "no regularizer": lambda: CPTHook(regularizers=[]),
    "toy weight 0": lambda: CPTHook(regularizers=[ToyRegularizer(weight=0.0)]),
    "cpt weights 0": lambda: CPTHook(weight_etf=0.0, weight_cc=0.0, weight_rs=0.0),
}


def seed_everything():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)


def fingerprint(trainer):
    """Bytes of all parameters, and the states of the three global generators."""
    parameters = b"".join(p.detach().numpy().tobytes() for p in trainer.model.parameters())
    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
    return parameters, random.getstate(), keys.tobytes(), position, torch.get_rng_state().tolist()


def hook_count(trainer):
    return sum(
        len(hooks)
        for module in trainer.model.modules()
        for name, hooks in vars(module).items()
        if name.startswith("_") and "_hooks" in name and hooks is not None and not isinstance(hooks, bool)
    )


def trained(trainer_class, hook=None, detach=False):
    seed_everything()
    trainer = trainer_class()
    handle = hook.attach(trainer) if hook else None
    if detach:
        handle.detach()
    trainer.train(epochs=3)
    return trainer, handle


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_weight_zero_is_absent(trainer_class, absent):
    plain, _ = trained(trainer_class)
    hooked, handle = trained(trainer_class, ABSENT[absent]())
    assert fingerprint(hooked) == fingerprint(plain)
    assert hooked.summaries == plain.summaries
    assert hook_count(hooked) == 0
    assert "forward_backward" not in vars(hooked)
    assert (handle.active, handle.parts, handle.total) == (False, {}, 0.0)
    assert (handle.digest, handle.describe()) == ("", [])
    handle.detach()


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_a_weight_changes_the_bits_but_draws_nothing(trainer_class):
    """Positive control of the test above, with the clustering of the real regularizer."""
    plain, _ = trained(trainer_class)
    hooked, handle = trained(trainer_class, CPTHook(weight_etf=0.1, cluster_size=3))
    assert handle.active
    assert hook_count(hooked) == 4 + 2  # with_kwargs and always_call take an entry each
    assert fingerprint(hooked)[0] != fingerprint(plain)[0]
    assert fingerprint(hooked)[1:] == fingerprint(plain)[1:]


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_after_detach_training_is_plain_again(trainer_class):
    plain, _ = trained(trainer_class)
    hooked, handle = trained(trainer_class, CPTHook(regularizers=[ToyRegularizer()]), detach=True)
    assert fingerprint(hooked) == fingerprint(plain)
    assert hooked.summaries == plain.summaries
    assert hook_count(hooked) == 0
    assert "forward_backward" not in vars(hooked)
    assert not handle.active


def test_detach_after_training_leaves_no_trace_in_the_next_steps():
    seed_everything()
    first = CoOpTrainer()
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(first)
    first.train(epochs=1)
    second = CoOpTrainer()
    second.model.load_state_dict(first.model.state_dict())
    second.optim.load_state_dict(copy.deepcopy(first.optim.state_dict()))
    handle.detach()
    for trainer in (first, second):
        seed_everything()
        trainer.train(epochs=1)
    assert fingerprint(first)[0] == fingerprint(second)[0]


def test_the_state_dict_is_that_of_the_plain_model():
    trainer = CoOpTrainer()
    before = set(trainer.model.state_dict())
    CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    assert set(trainer.model.state_dict()) == before


def test_main_loss_of_the_first_step_keeps_its_bits():
    seed_everything()
    plain, hooked = CoOpTrainer(), CoOpTrainer()
    CPTHook(regularizers=[ToyRegularizer()]).attach(hooked)
    for trainer in (plain, hooked):
        seed_everything()
        trainer.train(epochs=1)
    assert hooked.summaries[0]["loss"] == plain.summaries[0]["loss"]
    assert hooked.summaries[-1]["loss"] != plain.summaries[-1]["loss"]
