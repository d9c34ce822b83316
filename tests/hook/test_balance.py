"""Balanced weights on trainers of every kind of output: fractions, exact gradients, waiting, refusal."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from cpt_plugin.errors import HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.hook.balance import FLOOR
from cpt_plugin.regularizers import FeatureBatch, build
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import (
    TRAINERS,
    CoOpTrainer,
    MaPLeTrainer,
    TupleTrainer,
    explicit_gradient,
    flat_gradient,
    make_batch,
)

RHO = {"etf": 0.03, "cc": 0.3, "rs": 0.3}


class Part:
    """One unweighted part of a regularizer, for ``explicit_gradient``."""

    def __init__(self, regularizer, name):
        self.regularizer, self.name = regularizer, name

    def compute(self, batch):
        return {self.name: self.regularizer.compute(batch)[self.name]}


def oracle(trainer):
    """CPT with all weights 1, prepared by hand."""
    settings = {"WEIGHT_ETF": 1, "WEIGHT_CC": 1, "WEIGHT_RS": 1, "CLUSTER_SIZE": 3}
    (regularizer,) = build(["cpt"], {"CPT": settings})
    regularizer.prepare(trainer.frozen_text_features(), trainer.dm.dataset.classnames)
    return regularizer


def explicit(trainer_class, dtype, divisor, batch):
    """Gradients of the main loss and of each unweighted part by itself."""
    twin = trainer_class(dtype=dtype, divisor=divisor)
    regularizer = oracle(twin)
    main = explicit_gradient(twin, None, batch)
    return main, {name: explicit_gradient(twin, Part(regularizer, name), batch) - main for name in RHO}


def check(trainer, handle, main, own, steps, tolerance):
    for name in RHO:
        fraction = handle.factors[name] * own[name].norm() / main.norm()
        assert fraction.item() == pytest.approx(RHO[name], rel=tolerance)
    expected = main + sum(handle.factors[name] * gradient for name, gradient in own.items())
    assert (flat_gradient(trainer.model) - expected).norm() <= tolerance * expected.norm()
    assert steps[0]["loss_reg"] == pytest.approx(sum(handle.parts.values()))


@pytest.mark.parametrize("init_scale", [None, 65536.0])
@pytest.mark.parametrize("trainer_class", TRAINERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_fractions_of_the_first_step(trainer_class, init_scale, dtype, tolerance):
    trainer, batch = trainer_class(dtype=dtype, init_scale=init_scale), make_batch(dtype)
    handle = CPTHook(weighting="balanced", cluster_size=3).attach(trainer)
    steps = [trainer.forward_backward(batch)]
    check(trainer, handle, *explicit(trainer_class, dtype, 1, batch), steps, tolerance)


@pytest.mark.parametrize("trainer_class", [MaPLeTrainer, CoOpTrainer])
def test_fractions_under_accumulation(trainer_class):
    trainer, batch = trainer_class(divisor=4, init_scale=64.0), make_batch()
    options = {"weighting": "balanced", "cluster_size": 3}
    handle = CPTHook(accumulation=4, **options).attach(trainer)
    steps = [trainer.forward_backward(batch)]
    check(trainer, handle, *explicit(trainer_class, torch.float64, 4, batch), steps, 1e-9)


def test_all_that_leaves_the_model_counts_as_the_main_loss():
    """Without the second element of the tuple, the main loss's gradient would be another."""
    batch = make_batch()
    full, _ = explicit(TupleTrainer, torch.float64, 1, batch)
    logits_only = type("LogitsOnly", (TupleTrainer,), {"main_loss": lambda self, output, label: CoOpTrainer.main_loss(
        self, output[0], label)})  # fmt: skip
    partial, _ = explicit(logits_only, torch.float64, 1, batch)
    assert abs(full.norm() / partial.norm() - 1) > 0.01


def test_factors_stay_unless_averaged_and_are_restored():
    def factors(momentum, steps, state=None):
        trainer = MaPLeTrainer()
        handle = CPTHook(weighting="balanced", cluster_size=3, rho_momentum=momentum).attach(trainer)
        handle.load_state_dict(state or {})
        seen = []
        for step in steps:
            batch = make_batch()
            trainer.forward_backward({**batch, "img": batch["img"] * (1 + step)})
            seen.append(handle.factors)
        return seen, handle.state_dict()

    kept, state = factors(1.0, range(3))
    assert kept[0] == kept[1] == kept[2]
    assert factors(1.0, [5], state)[0] == kept[:1]
    assert factors(1.0, [5])[0] != kept[:1]
    averaged, first = factors(0.5, range(2))
    assert averaged[0] == kept[0]
    assert averaged[1] != averaged[0]
    anew, _ = factors(0.0, [0, 1])
    for name, (main, own) in first["balance"].items():
        assert averaged[1][name] == pytest.approx(RHO[name] * main / own)
        assert min(kept[0][name], anew[1][name]) < averaged[1][name] < max(kept[0][name], anew[1][name])


def test_a_part_without_a_gradient_waits(caplog):
    """Prompts that start at the template: the rotation term has no derivative there, and gets one after a step."""
    trainer, batch = CoOpTrainer(), make_batch()
    trainer.model.context.data.zero_()
    handle = CPTHook(weighting="balanced", cluster_size=3).attach(trainer)
    with caplog.at_level("INFO", logger="cpt_plugin"):
        first = trainer.forward_backward(batch)
    assert handle.factors["rs"] == first["loss_rs"] == 0
    assert handle.factors["etf"] > 0
    assert "part rs has not yet a gradient of its usual size" in caplog.text
    twin = CoOpTrainer()
    twin.model.load_state_dict(trainer.model.state_dict())
    regularizer = oracle(twin)
    main = explicit_gradient(twin, None, batch)
    own = explicit_gradient(twin, Part(regularizer, "rs"), batch) - main
    trainer.forward_backward(batch)
    assert (handle.factors["rs"] * own.norm() / main.norm()).item() == pytest.approx(0.3, rel=1e-9)


def test_a_few_live_components_are_not_taken_for_the_whole_gradient():
    trainer = CoOpTrainer()
    (regularizer,) = build(["cptb"], {"CPTB": {"CLUSTER_SIZE": 3}})
    frozen = trainer.frozen_text_features()
    regularizer.prepare(frozen, trainer.dm.dataset.classnames)
    text = frozen.clone()
    text[0, 0] += 1e-3
    batch = FeatureBatch(text=text, image=text, labels=torch.arange(len(text)))
    assert regularizer.undeveloped(batch) == {"rs"}
    batch.text = text + 1e-3 * torch.randn(text.shape, generator=torch.Generator().manual_seed(0))
    assert regularizer.undeveloped(batch) == set()


class Learning(ToyRegularizer):
    """Balanced parts whose names look like a key of the state and like another regularizer's, and a state."""

    name, gradient_fractions = "learning", {"balance": 0.5, "other.drift": 0.5}

    def __init__(self):
        super().__init__()
        self.seen = 0.0

    def compute(self, batch):
        self.seen += 1
        parts = super().compute(batch)
        return {"balance": parts["align"], "other.drift": parts["drift"]}

    def state_dict(self):
        return {"seen": [self.seen]}

    def load_state_dict(self, state):
        (self.seen,) = state["seen"]


def test_state_of_this_and_of_an_earlier_version():
    def attached(state=None):
        trainer = MaPLeTrainer()
        handle = CPTHook(regularizers=[Learning()]).attach(trainer)
        handle.load_state_dict(state) if state else trainer.forward_backward(make_batch())
        return handle.state_dict()

    state = attached()
    assert state["balance"].keys() == {"balance", "other.drift"}
    assert state["regularizers"] == {"learning": {"seen": [1.0]}}
    assert attached(state) == state
    assert attached({**state["balance"], "learning.seen": [1.0]}) == state


class Vanishing(ToyRegularizer):
    """A part whose gradient is all but zero."""

    name, gradient_fractions = "vanishing", {"drift": 0.5}

    def compute(self, batch):
        return {"drift": FLOOR * 1e-3 * super().compute(batch)["drift"]}


def test_a_part_that_never_has_a_gradient_is_named_at_the_end(caplog):
    trainer = MaPLeTrainer()
    handle = CPTHook(regularizers=[Vanishing()]).attach(trainer)
    trainer.forward_backward(make_batch())
    assert handle.factors == {"drift": 0.0}
    handle.detach()
    assert "drift never had a gradient to speak of and added nothing" in caplog.text


def test_balanced_and_printed_parts_side_by_side():
    trainer, batch = MaPLeTrainer(), make_batch()
    balanced, toy = build(["cptb"], {"CPTB": {"CLUSTER_SIZE": 3}})[0], ToyRegularizer()
    handle = CPTHook(regularizers=[balanced, toy]).attach(trainer)
    trainer.forward_backward(batch)
    main, own = explicit(MaPLeTrainer, torch.float64, 1, batch)
    twin = MaPLeTrainer()
    added = explicit_gradient(twin, toy, batch) - main
    expected = main + added + sum(handle.factors[name] * gradient for name, gradient in own.items())
    assert handle.factors.keys() == RHO.keys()
    assert (flat_gradient(trainer.model) - expected).norm() <= 1e-9 * expected.norm()


def test_reentrant_checkpointing_is_refused_with_the_remedy():
    class Checkpointed(MaPLeTrainer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            model = self.model
            model.encode = lambda image: (
                checkpoint(model.text_encoder, model.names + model.context, use_reentrant=True),
                model.image_encoder(image, model.visual),
            )

    trainer = Checkpointed()
    CPTHook(weighting="balanced", cluster_size=3).attach(trainer)
    with pytest.raises(HookError, match="use_reentrant=False"):
        trainer.forward_backward(make_batch())


def test_only_registered_models_count():
    """As in Dassl, what is trained is what the trainer has registered."""
    trainer, batch = MaPLeTrainer(), make_batch()
    prompts = torch.nn.ParameterList([trainer.model.context])
    trainer._models = {"prompts": prompts}
    handle = CPTHook(weighting="balanced", cluster_size=3).attach(trainer)
    trainer.forward_backward(batch)
    main, own = explicit(MaPLeTrainer, torch.float64, 1, batch)
    names = [name for name, _ in MaPLeTrainer().model.named_parameters()]
    assert names[0] == "context"
    size = trainer.model.context.numel()
    for name, rho in RHO.items():
        fraction = handle.factors[name] * own[name][:size].norm() / main[:size].norm()
        assert fraction.item() == pytest.approx(rho, rel=1e-9)
