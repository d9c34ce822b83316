"""What CPTHook reports, resolves and restores."""

from __future__ import annotations

import gc
import hashlib
import weakref

import pytest
import torch

import cpt_plugin
from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.regularizers import build
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import TRAINERS, CoOpTrainer, MaPLeTrainer, make_batch


def test_public_name():
    assert cpt_plugin.CPTHook is CPTHook


def test_what_is_no_regularizer_is_refused():
    with pytest.raises(ConfigError, match=r"regularizers= holds str, function: .*build\(\['cpt'\], \{\}\)"):
        CPTHook(regularizers=["cpt", lambda batch: {}])


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_summary_and_parts_hold_the_weighted_values(trainer_class):
    regularizer = ToyRegularizer()
    trainer = trainer_class()
    handle = CPTHook(regularizers=[regularizer]).attach(trainer)
    assert (handle.parts, handle.total) == ({}, 0.0)
    summary = trainer.forward_backward(make_batch())
    expected = {name: value.item() for name, value in regularizer.compute(regularizer.batches[0]).items()}
    assert handle.parts == pytest.approx(expected, rel=1e-12)
    assert handle.total == pytest.approx(sum(expected.values()), rel=1e-12)
    assert summary == {
        "loss": summary["loss"],
        "loss_reg": handle.total,
        **{f"loss_{name}": value for name, value in handle.parts.items()},
    }
    assert all(type(value) is float for value in summary.values())


def test_parts_of_cpt_have_their_names_in_the_log():
    trainer = CoOpTrainer()
    handle = CPTHook(cluster_size=3, weight_rs=0.0).attach(trainer)
    summary = trainer.forward_backward(make_batch())
    assert set(summary) == {"loss", "loss_reg", "loss_etf", "loss_cc"}
    assert set(handle.parts) == {"etf", "cc"}
    assert any("clusters" in line for line in handle.describe())


def test_parts_are_those_of_the_last_step_alone():
    regularizer = ToyRegularizer()
    trainer = CoOpTrainer()
    handle = CPTHook(regularizers=[regularizer]).attach(trainer)
    for _ in range(3):
        trainer.forward_backward(make_batch())
    last = regularizer.compute(regularizer.batches[2])
    assert handle.parts == pytest.approx({name: value.item() for name, value in last.items()}, rel=1e-12)


def test_parts_is_a_copy():
    trainer = CoOpTrainer()
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    trainer.forward_backward(make_batch())
    handle.parts.clear()
    assert handle.parts


def test_a_trainer_without_summary_keeps_returning_none():
    class Silent(CoOpTrainer):
        def forward_backward(self, batch):
            super().forward_backward(batch)

    trainer = Silent()
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    assert trainer.forward_backward(make_batch()) is None
    assert handle.total > 0


def test_batch_by_keyword():
    trainer = CoOpTrainer()
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    trainer.forward_backward(batch=make_batch())
    assert handle.total > 0


def test_two_transfers_to_the_host_in_a_step_after_the_first(monkeypatch):
    transfers = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _n=name, _o=original: (transfers.append(_n), _o(self, *a))[1]
        )
    trainer = CoOpTrainer(init_scale=None)
    CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    trainer.forward_backward(make_batch())
    transfers.clear()
    trainer.forward_backward(make_batch())
    # the trainer's own loss.item(), all parts at once, and after the step what they were multiplied by; the labels'
    # range is looked at where they are: "__int__", of a batch's on the CPU
    assert sorted(transfers) == ["__int__", "__int__", "item", "tolist", "tolist"]


def test_several_regularizers_add_up_under_distinct_names():
    class Second(ToyRegularizer):
        name = "second"

    trainer = CoOpTrainer()
    first, second = ToyRegularizer(weight=0.5), Second(weight=0.25, text_only=True)
    absent = ToyRegularizer(weight=0.0)
    handle = CPTHook(regularizers=[first, second, absent]).attach(trainer)
    trainer.forward_backward(make_batch())
    assert set(handle.parts) == {"spread", "align", "drift", "second_drift"}
    assert handle.total == pytest.approx(sum(handle.parts.values()))
    assert handle.regularizers == (first, second)
    assert absent.frozen_text is None


def test_frozen_features_and_names_come_from_the_trainer_unless_given():
    trainer = CoOpTrainer()
    own, given = ToyRegularizer(), ToyRegularizer()
    CPTHook(regularizers=[own]).attach(trainer)
    assert torch.equal(own.frozen_text, trainer.frozen_text_features())
    assert own.class_names == trainer.dm.dataset.classnames
    features = torch.ones_like(own.frozen_text, requires_grad=True)
    names = [name.upper() for name in own.class_names]
    CPTHook(regularizers=[given], frozen_text=features, class_names=tuple(names)).attach(CoOpTrainer())
    assert torch.equal(given.frozen_text, features)
    assert not given.frozen_text.requires_grad
    assert given.class_names == names


def test_frozen_features_never_carry_a_gradient():
    class Cached(CoOpTrainer):
        def frozen_text_features(self):
            return torch.nn.Parameter(super().frozen_text_features())

    regularizer = ToyRegularizer()
    CPTHook(regularizers=[regularizer]).attach(Cached())
    assert not regularizer.frozen_text.requires_grad


def test_digest_combines_names_and_digests_of_the_regularizers():
    trainer = CoOpTrainer()
    handle = CPTHook(cluster_size=3).attach(trainer)
    (oracle,) = build(["cpt"], {"CPT": {"CLUSTER_SIZE": 3}})
    oracle.prepare(trainer.frozen_text_features(), trainer.dm.dataset.classnames)
    assert handle.digest == hashlib.sha256(f"cpt={oracle.digest()}\n".encode()).hexdigest()
    assert handle.digest != CPTHook(cluster_size=2).attach(CoOpTrainer()).digest


def test_detach_twice_is_harmless():
    trainer = CoOpTrainer()
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    trainer.forward_backward(make_batch())
    last = handle.parts
    handle.detach()
    handle.detach()
    assert not handle.active
    assert handle.parts == last


def test_an_old_handle_does_not_detach_a_new_one():
    trainer = CoOpTrainer()
    old = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    old.detach()
    new = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    old.detach()
    assert new.active
    with pytest.raises(HookError, match="attached to this trainer already"):
        CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    assert "loss_reg" in trainer.forward_backward(make_batch())


def test_an_instance_attribute_of_the_user_is_restored():
    trainer = CoOpTrainer()
    original, calls = trainer.forward_backward, []
    mine = lambda batch: (calls.append("mine"), original(batch))[1]  # noqa: E731
    trainer.forward_backward = mine
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    assert "loss_reg" in trainer.forward_backward(make_batch())
    handle.detach()
    assert trainer.forward_backward is mine
    assert calls == ["mine"]


def test_detach_beneath_a_later_wrapper_leaves_the_wrapper():
    trainer = CoOpTrainer()
    handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    inner = trainer.forward_backward
    outer = lambda batch: {**inner(batch), "outer": 1}  # noqa: E731
    trainer.forward_backward = outer
    assert "loss_reg" in trainer.forward_backward(make_batch())
    handle.detach()
    assert trainer.forward_backward is outer
    assert set(trainer.forward_backward(make_batch())) == {"loss", "outer"}


def test_a_step_that_calls_itself_is_one_step():
    class Recursive(MaPLeTrainer):
        depth = 0

        def forward_backward(self, batch):
            self.depth += 1
            if self.depth == 1:
                self.forward_backward(batch)
            return super().forward_backward(batch)

    regularizer = ToyRegularizer()
    trainer = Recursive()
    handle = CPTHook(regularizers=[regularizer]).attach(trainer)
    trainer.forward_backward(make_batch())
    seen = regularizer.batches[:2]
    values = [sum(part.item() for part in regularizer.compute(batch).values()) for batch in seen]
    assert len(regularizer.batches) == 2 + 2
    assert handle.total == pytest.approx(sum(values), rel=1e-12), "each was back-propagated in full"


def test_trainer_and_graph_are_freed():
    trainer = CoOpTrainer()
    CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    features = []
    trainer.model.text_encoder.register_forward_hook(lambda *call: features.append(weakref.ref(call[-1])))
    trainer.forward_backward(make_batch())
    gc.collect()
    assert features[0]() is None
    dead = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert dead() is None


class TemplateTrainer(CoOpTrainer):
    """Its frozen features depend on the template."""

    def frozen_text_features(self, template="own"):
        return super().frozen_text_features() * len(template)


class OpenTrainer(CoOpTrainer):
    def frozen_text_features(self, **options):
        return super().frozen_text_features() * len(options.get("template", "own"))


@pytest.mark.parametrize("trainer_class", [TemplateTrainer, OpenTrainer])
@pytest.mark.parametrize("template", ["", "a longer {}."])
def test_template_is_handed_to_the_trainer(trainer_class, template):
    trainer, regularizer = trainer_class(), ToyRegularizer()
    regularizer.template = template
    CPTHook(regularizers=[regularizer]).attach(trainer)
    own = CoOpTrainer().frozen_text_features()
    assert torch.equal(regularizer.frozen_text, own * len(template or "own"))


def test_template_is_an_option_of_cpt_and_needs_no_say_of_other_regularizers():
    trainer, other = TemplateTrainer(), ToyRegularizer()
    CPTHook(regularizers=[*build(["cpt"], {"CPT": {"TEMPLATE": "a longer {}."}}), other]).attach(trainer)
    assert torch.equal(other.frozen_text, CoOpTrainer().frozen_text_features() * len("a longer {}."))
    alone = CPTHook(template="a {}.").attach(TemplateTrainer())
    assert alone.active
