"""The identity that injects a gradient: values unchanged, scale as stated, every kind of container."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch

from cpt_plugin.errors import HookError
from cpt_plugin.hook.attach import attach_loss, is_scalar_loss

Triple = namedtuple("Triple", "first second third")


def constant_scale(value):
    return lambda outputs, gradients, loss: torch.full_like(loss, value)


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


@pytest.mark.parametrize("make", [lambda *v: v, lambda *v: list(v), lambda *v: Triple(*v)])
def test_containers_keep_their_type_and_all_their_tensors_carry_the_gradient(parameter, make):
    for used in (1, 2):
        original = make("no tensor", 2 * parameter, 2 * parameter)
        output, attachment = attach_loss(original, (5 * parameter).sum(), constant_scale(3.0))
        assert type(output) is type(original)
        assert output[0] == "no tensor"
        parameter.grad = None
        output[used].sum().backward()
        assert parameter.grad.tolist() == [2 + 15] * 3
        assert attachment.fired == 1


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (torch.ones(2, 3), "requires_grad=False"),
        ((torch.ones(2), 1), "tuple"),
        ({"logits": torch.ones(2)}, "dict"),
        (None, "NoneType"),
    ],
)
def test_outputs_without_a_gradient_are_refused(output, name):
    with pytest.raises(HookError, match=f"{name}.*a scalar loss, logits, or a tuple"):
        attach_loss(output, torch.ones((), requires_grad=True), constant_scale(1.0))


def test_dictionaries_and_what_lies_in_them(parameter):
    output, _ = attach_loss({"all": [None, (2 * parameter,)], "n": 3}, (5 * parameter).sum(), constant_scale(3.0))
    assert output["n"] == 3
    output["all"][1][0].sum().backward()
    assert parameter.grad.tolist() == [2 + 15] * 3


@pytest.mark.parametrize("only", [1, 2])
def test_one_of_several_back_propagations(parameter, only):
    output, attachment = attach_loss(2 * parameter, (5 * parameter).sum(), constant_scale(3.0), only=only)
    seen = []
    for _ in range(3):
        parameter.grad = None
        output.sum().backward(retain_graph=True)
        seen.append(parameter.grad[0].item())
    assert seen == [2 + 15 * (i == only) for i in (1, 2, 3)]
    assert attachment.done


def test_logits_back_propagated_twice_are_refused(parameter):
    output, _ = attach_loss(2 * parameter, parameter.sum(), constant_scale(1.0))
    output.sum().backward(retain_graph=True)
    with pytest.raises(HookError, match=r'more than once.*CPTHook\(backward="first"\)'):
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
