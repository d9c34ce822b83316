"""R11: the gradient with the hook equals that of the explicit ``main loss + regularizer``.

Covers every kind of model output, AMP loss scaling, accumulation divisors, float32 and the real CPT.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from cpt_plugin.hook import CPTHook
from cpt_plugin.regularizers import build
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import (
    BATCH,
    CLASSES,
    SCALAR_TRAINERS,
    TRAINERS,
    WIDTH,
    CoCoOpTrainer,
    CoOpTrainer,
    DPCTrainer,
    MaPLeTrainer,
    explicit_gradient,
    flat_gradient,
    make_batch,
)


def relative_error(trainer, hook, regularizer, batch, twin_class=None):
    """Of the hooked gradient, after one step, against the explicit one on a twin of the trainer."""
    twin = (twin_class or type(trainer))(dtype=trainer.dtype, divisor=trainer.divisor)
    hook.attach(trainer)
    trainer.forward_backward(batch)
    expected = explicit_gradient(twin, regularizer, batch)
    plain = explicit_gradient(twin, None, batch)
    assert (expected - plain).norm() > 0.01 * expected.norm(), "the regularizer must matter here"
    return ((flat_gradient(trainer.model) - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("init_scale", [None, 1.0, 65536.0])
@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_gradient_equals_the_explicit_sum(trainer_class, init_scale):
    regularizer = ToyRegularizer()
    trainer = trainer_class(init_scale=init_scale)
    error = relative_error(trainer, CPTHook(regularizers=[regularizer]), regularizer, make_batch())
    assert error <= 1e-12


@pytest.mark.parametrize("init_scale", [None, 65536.0])
@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_gradient_in_float32(trainer_class, init_scale):
    regularizer = ToyRegularizer()
    trainer = trainer_class(dtype=torch.float32, init_scale=init_scale)
    hook = CPTHook(regularizers=[regularizer])
    assert relative_error(trainer, hook, regularizer, make_batch(torch.float32)) <= 1e-6


@pytest.mark.parametrize("init_scale", [None, 65536.0])
@pytest.mark.parametrize("trainer_class", SCALAR_TRAINERS)
def test_scalar_loss_carries_its_accumulation_divisor(trainer_class, init_scale):
    regularizer = ToyRegularizer()
    trainer = trainer_class(divisor=4, init_scale=init_scale)
    error = relative_error(trainer, CPTHook(regularizers=[regularizer]), regularizer, make_batch())
    assert error <= 1e-12


@pytest.mark.parametrize("init_scale", [None, 65536.0])
@pytest.mark.parametrize("trainer_class", [t for t in TRAINERS if t not in SCALAR_TRAINERS])
def test_stated_accumulation_divides_the_regularizer(trainer_class, init_scale):
    regularizer = ToyRegularizer()
    trainer = trainer_class(divisor=4, init_scale=init_scale)
    hook = CPTHook(regularizers=[regularizer], accumulation=4)
    assert relative_error(trainer, hook, regularizer, make_batch()) <= 1e-12


def test_a_divisor_that_is_stated_wrongly_gives_another_gradient():
    """Negative control: the comparison above does see a wrong scale."""
    regularizer = ToyRegularizer()
    hook = CPTHook(regularizers=[regularizer], accumulation=1)
    assert relative_error(CoOpTrainer(divisor=4), hook, regularizer, make_batch()) > 0.1


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_gradient_of_the_real_regularizer(trainer_class):
    options = {"WEIGHT_ETF": 2.0, "WEIGHT_CC": 3.0, "WEIGHT_RS": 1.5, "CLUSTER_SIZE": 3}
    (oracle,) = build(["cpt"], {"CPT": options})
    trainer = trainer_class(init_scale=65536.0)
    oracle.prepare(trainer.frozen_text_features(), trainer.dm.dataset.classnames)
    hook = CPTHook(weight_etf=2.0, weight_cc=3.0, weight_rs=1.5, cluster_size=3)
    assert relative_error(trainer, hook, oracle, make_batch()) <= 1e-12


def test_several_forwards_in_one_step_each_carry_their_own_regularizer():
    """Two micro-batches, each loss divided by 2: the regularizer comes out as the mean over both."""

    class TwoForwards(MaPLeTrainer):
        def main_loss(self, output, label):
            return (output + self.model(self.second["img"], self.second["label"])) / 2

    batch, other = make_batch(), make_batch()
    other["img"] = other["img"].flip(0) * 2
    regularizer = ToyRegularizer()
    trainer, twin = TwoForwards(), MaPLeTrainer()
    trainer.second = other
    handle = CPTHook(regularizers=[regularizer]).attach(trainer)
    summary = trainer.forward_backward(batch)
    expected = sum(explicit_gradient(twin, regularizer, b) for b in (batch, other)) / 2
    assert (flat_gradient(trainer.model) - expected).norm() <= 1e-12 * expected.norm()
    seen = regularizer.batches[:2]
    totals = [sum(part.item() for part in regularizer.compute(features).values()) for features in seen]
    assert handle.total == pytest.approx(sum(totals) / 2, rel=1e-12)
    assert summary["loss_reg"] == handle.total


def test_cocoop_features_are_stacked_by_image():
    regularizer = ToyRegularizer()
    trainer = CoCoOpTrainer()
    CPTHook(regularizers=[regularizer]).attach(trainer)
    batch = make_batch()
    text, image = CoCoOpTrainer().model.encode(batch["img"])
    trainer.forward_backward(batch)
    (seen,) = regularizer.batches
    assert seen.text.shape == (BATCH, CLASSES, WIDTH)
    assert torch.equal(seen.text, text)
    assert torch.equal(seen.image, image)


def test_rebuilt_batches_bring_their_own_labels():
    regularizer = ToyRegularizer()
    trainer = DPCTrainer()
    CPTHook(regularizers=[regularizer]).attach(trainer)
    batch = make_batch()
    trainer.forward_backward(batch)
    (seen,) = regularizer.batches
    expected = torch.cat([batch["label"], (batch["label"] + 1) % CLASSES])
    assert torch.equal(seen.labels, expected)


def test_regularizer_computes_in_float32_outside_autocast():
    class Autocast(CoOpTrainer):
        def forward_backward(self, batch):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward_backward(batch)

    regularizer = ToyRegularizer()
    trainer = Autocast(dtype=torch.float32)
    hook = CPTHook(regularizers=[regularizer], frozen_text=trainer.frozen_text_features().float())
    handle = hook.attach(trainer)
    encoded = []
    trainer.model.text_encoder.register_forward_hook(lambda *call: encoded.append(call[-1].dtype))
    trainer.forward_backward(make_batch(torch.float32))
    (seen,) = regularizer.batches
    assert seen.text.dtype == seen.image.dtype == torch.float32
    assert encoded == [torch.bfloat16]
    assert regularizer.autocast == [False]
    assert torch.isfinite(torch.tensor(handle.total))


def test_half_precision_features_are_widened_and_still_receive_their_gradient():
    trainer = MaPLeTrainer(dtype=torch.bfloat16)
    regularizer = ToyRegularizer()
    CPTHook(regularizers=[regularizer], frozen_text=trainer.frozen_text_features().float()).attach(trainer)
    trainer.forward_backward(make_batch(torch.bfloat16))
    hooked = flat_gradient(trainer.model)
    plain = MaPLeTrainer(dtype=torch.bfloat16)
    plain.forward_backward(make_batch(torch.bfloat16))
    (seen,) = regularizer.batches
    assert seen.text.dtype == torch.float32
    assert (hooked - flat_gradient(plain.model)).norm() > 0.01 * hooked.norm()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_of_an_encoder_is_exact(use_reentrant):
    class Checkpointed(MaPLeTrainer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            model = self.model
            model.encode = lambda image: (
                checkpoint(model.text_encoder, model.names + model.context, use_reentrant=use_reentrant),
                checkpoint(model.image_encoder, image, model.visual, use_reentrant=use_reentrant),
            )

    regularizer = ToyRegularizer()
    hook = CPTHook(regularizers=[regularizer])
    assert relative_error(Checkpointed(), hook, regularizer, make_batch(), MaPLeTrainer) <= 1e-12


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_of_the_whole_model_is_exact(use_reentrant):
    class Checkpointed(MaPLeTrainer):
        def forward_backward(self, batch):
            image = batch["img"].clone().requires_grad_()
            checkpoint(self.model, image, batch["label"], use_reentrant=use_reentrant).backward()

    regularizer = ToyRegularizer()
    hook = CPTHook(regularizers=[regularizer])
    assert relative_error(Checkpointed(), hook, regularizer, make_batch(), MaPLeTrainer) <= 1e-12
