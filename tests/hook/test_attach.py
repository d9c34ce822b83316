"""The identity that injects a gradient: values unchanged, scale as stated, every kind of container."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from cpt_plugin.errors import HookError
from cpt_plugin.hook.attach import OutputScale, attach_loss, is_scalar_loss

Pair = namedtuple("Pair", "first second")


def constant_scale(value):
    return lambda loss: torch.full_like(loss, value)


@pytest.fixture
def parameter():
    return torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)


def test_scalar_loss_scales_the_attached_loss_by_its_incoming_gradient(parameter):
    output, attachment = attach_loss(parameter.square().sum(), (5 * parameter).sum(), constant_scale(99.0))
    (output * 7).backward()
    assert parameter.grad.tolist() == [7 * (2 * 1 + 5), 7 * (2 * -2 + 5), 7 * (2 * 3 + 5)]
    assert attachment.fired == 1


def test_logits_use_the_output_scale_and_keep_their_own_gradient(parameter):
    output, _ = attach_loss(2 * parameter, (5 * parameter).sum(), constant_scale(3.0))
    (output * 10).sum().backward()
    assert parameter.grad.tolist() == [2 * 10 + 15] * 3


def test_values_are_unchanged_and_may_be_modified_in_place(parameter):
    logits = parameter * 1.1
    output, _ = attach_loss(logits, parameter.sum(), constant_scale(1.0))
    assert torch.equal(output, logits)
    output /= 2
    output.sum().backward()
    assert torch.allclose(parameter.grad, torch.full((3,), 1.1 / 2 + 1, dtype=torch.float64))


@pytest.mark.parametrize("make", [lambda *v: v, lambda *v: list(v), lambda *v: Pair(*v)])
def test_containers_keep_their_type_and_use_the_first_tensor_with_a_gradient(parameter, make):
    original = make("no tensor", 2 * parameter)
    output, attachment = attach_loss(original, (5 * parameter).sum(), constant_scale(3.0))
    assert type(output) is type(original)
    assert output[0] == "no tensor"
    output[1].sum().backward()
    assert parameter.grad.tolist() == [2 + 15] * 3
    assert attachment.fired == 1


def test_a_scalar_inside_a_tuple_takes_the_output_scale(parameter):
    """Its trainer adds further losses, perhaps weighting this one: only the scaler's factor is meant."""
    (loss,), _ = attach_loss((parameter.sum(),), (5 * parameter).sum(), constant_scale(3.0))
    (loss * 0.25).backward()
    assert parameter.grad.tolist() == [0.25 + 15] * 3


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (torch.ones(2, 3), "requires_grad=False"),
        ((torch.ones(2), 1), "tuple"),
        ({"logits": torch.ones(2, requires_grad=True)}, "dict"),
        (None, "NoneType"),
    ],
)
def test_outputs_without_a_gradient_are_refused(output, name):
    with pytest.raises(HookError, match=f"{name}.*return a scalar loss, logits, or a tuple"):
        attach_loss(output, torch.ones((), requires_grad=True), constant_scale(1.0))


def test_logits_back_propagated_twice_are_refused(parameter):
    output, _ = attach_loss(2 * parameter, parameter.sum(), constant_scale(1.0))
    output.sum().backward(retain_graph=True)
    with pytest.raises(HookError, match=r"more than once.*sum the losses and call backward\(\) once"):
        output.square().sum().backward()


def test_scalar_losses_may_be_back_propagated_twice(parameter):
    loss, attachment = attach_loss(parameter.sum(), (5 * parameter).sum(), constant_scale(99.0))
    loss.backward(retain_graph=True)
    (2 * loss).backward()
    assert parameter.grad.tolist() == [3 * 6] * 3
    assert attachment.fired == 2


@pytest.mark.parametrize(
    ("shape", "scalar"), [((), True), ((1,), True), ((1, 1), False), ((2,), False), ((0,), False)]
)
def test_what_counts_as_a_scalar_loss(shape, scalar):
    assert is_scalar_loss(torch.zeros(shape)) is scalar


def test_a_loss_of_shape_one_gives_a_scalar_gradient(parameter):
    loss, _ = attach_loss(parameter.sum().view(1), (5 * parameter).sum(), constant_scale(99.0))
    (3 * loss).backward()
    assert parameter.grad.tolist() == [3 * 6] * 3


def test_output_scale_is_read_when_it_is_used():
    trainer = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    scale = OutputScale(trainer, accumulation=4)
    loss = torch.ones((), dtype=torch.float64)
    assert scale(loss).item() == 256.0
    trainer.scaler.update(2048.0)
    assert scale(loss).item() == 512.0
    assert scale(loss).dtype == torch.float64
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert scale(loss).item() == 0.25
    assert OutputScale(SimpleNamespace(), None)(loss).item() == 1.0


@pytest.mark.parametrize(
    ("trainer", "key"),
    [
        (SimpleNamespace(cfg={"TRAIN": {"ACCUM_STEPS": 4}}), "cfg.TRAIN.ACCUM_STEPS = 4"),
        (SimpleNamespace(cfg=SimpleNamespace(gradient_accumulation=4)), "cfg.gradient_accumulation = 4"),
        (SimpleNamespace(accumulation=4), "trainer.accumulation = 4"),
    ],
)
def test_unstated_accumulation_is_refused_with_the_key_and_the_remedy(trainer, key):
    with pytest.raises(HookError, match=rf"{key}.*CPTHook\(\.\.\., accumulation=4\)"):
        OutputScale(trainer, None).check()
    OutputScale(trainer, 4).check()


@pytest.mark.parametrize(
    "trainer",
    [
        SimpleNamespace(),
        SimpleNamespace(cfg=None),
        SimpleNamespace(cfg={"TRAIN": {"ACCUM_STEPS": 1, "EPOCHS": 4, "ACCUMULATE": True, "ACCUM": "no"}}),
    ],
)
def test_trainers_that_do_not_accumulate_pass(trainer):
    OutputScale(trainer, None).check()
