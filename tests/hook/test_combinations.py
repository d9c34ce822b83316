"""Every combination of output, loss scaling, accumulation, forwards and batch size: exact, or refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from cpt_plugin.errors import HookError
from cpt_plugin.hook import CPTHook
from tests.hook.combinations import OUTPUTS, Combination, CombinedTrainer, batch_of
from tests.hook.toy_regularizer import ToyRegularizer

RETURNS_LOSS = ("loss", "logits and loss")


def error_of(combination, hook=None):
    """Relative error of the hooked gradient; None where the hook refuses."""
    regularizer = ToyRegularizer()
    trainer, twin, batch = CombinedTrainer(combination), CombinedTrainer(combination), batch_of(combination)
    (hook or CPTHook(regularizers=[regularizer])).attach(trainer)
    regularizer.prepare(trainer.frozen_text_features(), [])
    try:
        summary = trainer.forward_backward(batch)
    except HookError as refusal:
        message = str(refusal)
    else:
        message = ""
    if message:
        assert "CPTHook(" in message, "each refusal has its line"
        return None
    expected, plain = twin.by_hand(regularizer, batch), twin.by_hand(None, batch)
    assert (expected - plain).norm() > 0.01 * expected.norm(), "the regularizer must matter here"
    added = twin_value(twin, regularizer, batch)
    assert summary["loss_reg"] == pytest.approx(added, rel=1e-5), "what is logged is what the gradient got"
    return ((trainer.gradient() - expected).norm() / expected.norm()).item()


def twin_value(twin, regularizer, batch):
    """The regularizer as it was added to the step's loss."""
    from cpt_plugin.regularizers import FeatureBatch

    values = []
    for image, label in batch["all"]:
        text, features = twin.model.encode(image)
        values.append(sum(p.item() for p in regularizer.compute(FeatureBatch(text, features, label)).values()))
    return sum(values) / len(values) / twin.micro_steps


@pytest.mark.parametrize("passes_labels", [True, False])
@pytest.mark.parametrize("combination", Combination.all(), ids=str)
def test_exact_or_refused(combination, passes_labels):
    combination = replace(combination, passes_labels=passes_labels)
    error = error_of(combination)
    assert error is None or error <= 1e-6
    if combination.forwards == 1 and combination.micro_steps == 1:
        assert error is not None, "the plain cases work"
    if combination.output in RETURNS_LOSS:
        assert error is not None, "the loss shows all"


@pytest.mark.parametrize("output", ["logits", "tuple"])
@pytest.mark.parametrize("scaled", [False, True])
def test_averaged_forwards_with_labels_are_seen_on_the_logits(output, scaled):
    assert error_of(Combination(output, scaled, forwards=2)) <= 1e-6


@pytest.mark.parametrize("output", ["logits", "tuple"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_stated_divisor(output, scaled):
    regularizer = ToyRegularizer()
    trainer = CombinedTrainer(Combination(output, scaled, micro_steps=4))
    twin, batch = CombinedTrainer(trainer.how), batch_of(trainer.how)
    CPTHook(regularizers=[regularizer], accumulation=4).attach(trainer)
    trainer.forward_backward(batch)
    expected = twin.by_hand(regularizer, batch)
    assert ((trainer.gradient() - expected).norm() / expected.norm()).item() <= 1e-6


@pytest.mark.parametrize("combination", Combination.all()[::5], ids=str)
def test_weight_zero_is_absent(combination):
    plain, hooked, batch = CombinedTrainer(combination), CombinedTrainer(combination), batch_of(combination)
    handle = CPTHook(regularizers=[ToyRegularizer(weight=0.0)]).attach(hooked)
    assert not handle.active
    assert plain.forward_backward(batch) == hooked.forward_backward(copy.deepcopy(batch))
    assert torch.equal(plain.gradient(), hooked.gradient())


def test_all_kinds_of_output_are_tried():
    assert {c.output for c in Combination.all()} == set(OUTPUTS)
    assert len(Combination.all()) == 4 * 2 * 2 * 2 * 3
