"""The taps see the forward passes of an armed training step of this very model, and nothing else."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch

from cpt_plugin.hook import CPTHook, attach, taps
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import CoOpTrainer, MaPLeTrainer, flat_gradient, make_batch


@pytest.fixture
def regularizer():
    return ToyRegularizer()


def attached(regularizer, trainer_class=MaPLeTrainer):
    trainer = trainer_class()
    return trainer, CPTHook(regularizers=[regularizer]).attach(trainer)


def during_the_step(trainer, action):
    """Let ``action()`` run inside forward_backward, before and after the model's own forward."""
    main_loss = trainer.main_loss
    parse = trainer.parse
    trainer.parse = lambda batch: (action(), parse(batch))[1]
    trainer.main_loss = lambda output, label: (action(), main_loss(output, label))[1]


def test_calls_outside_training_steps_pass_unseen(regularizer):
    trainer, handle = attached(regularizer)
    batch = make_batch()
    loss = trainer.model(batch["img"], batch["label"])
    trainer.model.text_encoder(trainer.model.names)
    assert regularizer.batches == []
    assert type(loss.grad_fn).__name__ == "NllLossBackward0"
    assert handle.parts == {}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_inside_a_step_passes_unseen(regularizer, context):
    trainer, _ = attached(regularizer)
    batch = make_batch()

    def evaluate():
        with context():
            trainer.model(batch["img"])

    during_the_step(trainer, evaluate)
    trainer.forward_backward(batch)
    assert len(regularizer.batches) == 1


def test_encoders_called_beside_the_model_pass_unseen(regularizer):
    trainer, _ = attached(regularizer)
    model = trainer.model
    during_the_step(trainer, lambda: model.text_encoder(model.names + model.context))
    trainer.forward_backward(make_batch())
    assert len(regularizer.batches) == 1


def test_what_one_step_saw_does_not_count_in_the_next(regularizer):
    trainer, _ = attached(regularizer)
    model = trainer.model
    model.context.requires_grad_(False)
    trainer.forward_backward(make_batch())
    model.context.requires_grad_(True)
    during_the_step(trainer, lambda: model.text_encoder(model.names + model.context))
    trainer.forward_backward(make_batch())
    assert len(regularizer.batches) == 2


def test_a_second_trainer_of_the_same_class_is_untouched(regularizer):
    trainer, _ = attached(regularizer)
    other = MaPLeTrainer()
    summary = other.forward_backward(make_batch())
    assert regularizer.batches == []
    assert set(summary) == {"loss"}
    assert not torch.equal(flat_gradient(other.model), torch.zeros(()))
    assert "loss_reg" in trainer.forward_backward(make_batch())


def shallow(model):
    return copy.copy(model)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, shallow, through_pickle, through_torch_save])
def test_copies_of_the_model_do_not_feed_the_taps(regularizer, duplicate):
    trainer, _ = attached(regularizer)
    batch = make_batch()
    trainer.forward_backward(batch)
    twin = duplicate(trainer.model)
    copied = []
    during_the_step(trainer, lambda: copied.append(twin(batch["img"], batch["label"])))
    trainer.forward_backward(batch)
    assert len(regularizer.batches) == 2
    assert [type(loss.grad_fn).__name__ for loss in copied] == ["NllLossBackward0"] * 2


def test_copying_inside_a_forward_is_possible(regularizer):
    """Features on record are non-leaf tensors, which deepcopy refuses: the copy must not reach them."""
    trainer, handle = attached(regularizer)
    head = trainer.model.head
    trainer.model.head = lambda *args: (copy.deepcopy(trainer.model.text_encoder), head(*args))[1]
    trainer.forward_backward(make_batch())
    assert handle.total > 0


class FailsOnce:
    """A head that runs out of memory at its first call."""

    def __init__(self, head):
        self.head = head
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls == 1:
            raise MemoryError("out of memory")
        return self.head(*args)


def test_a_step_after_a_failed_one_is_as_usual(regularizer):
    trainer, handle = attached(regularizer)
    trainer.model.head = FailsOnce(trainer.model.head)
    with pytest.raises(MemoryError):
        trainer.forward_backward(make_batch())
    trainer.model(make_batch()["img"])
    trainer.model.text_encoder(trainer.model.names)
    assert regularizer.batches == []
    trainer.forward_backward(make_batch())
    assert len(regularizer.batches) == 1
    assert handle.total > 0


def test_a_forward_repeated_within_one_step_starts_afresh(regularizer):
    class Retrying(MaPLeTrainer):
        def forward_backward(self, batch):
            try:
                return super().forward_backward(batch)
            except MemoryError:
                return super().forward_backward(batch)

    trainer, handle = attached(regularizer, Retrying)
    trainer.model.head = FailsOnce(trainer.model.head)
    trainer.forward_backward(make_batch())
    assert trainer.model.head.calls == 2
    assert len(regularizer.batches) == 1
    assert handle.total > 0


def test_compiled_encoders_are_tapped(regularizer):
    trainer = CoOpTrainer()
    trainer.model.text_encoder = torch.compile(trainer.model.text_encoder, backend="eager")
    CPTHook(regularizers=[regularizer]).attach(trainer)
    for _ in range(2):
        trainer.forward_backward(make_batch())
    assert len(regularizer.batches) == 2


def labels_seen(regularizer, trainer_class, batch):
    trainer, _ = attached(regularizer, trainer_class)
    trainer.forward_backward(batch)
    return regularizer.batches[-1].labels


def test_labels_come_from_the_batch_if_the_model_gets_none(regularizer):
    batch = make_batch()
    assert torch.equal(labels_seen(regularizer, CoOpTrainer, batch), batch["label"])


def test_other_integer_types_in_the_batch_become_int64(regularizer):
    class Int32(CoOpTrainer):
        def parse(self, batch):
            return batch["img"], batch["label"].long()

    batch = make_batch()
    seen = labels_seen(regularizer, Int32, {**batch, "label": batch["label"].to(torch.int32)})
    assert seen.dtype == torch.long
    assert torch.equal(seen, batch["label"])


@pytest.mark.parametrize("keyword", [False, True])
def test_labels_passed_to_the_model_win_over_the_batch(regularizer, keyword):
    class OtherLabels(MaPLeTrainer):
        def forward_backward(self, batch):
            label = batch["label"].flip(0)
            image = batch["img"]
            loss = self.model(image, label=label) if keyword else self.model(image, label)
            loss.backward()

    batch = make_batch()
    assert not torch.equal(batch["label"], batch["label"].flip(0))
    assert torch.equal(labels_seen(regularizer, OtherLabels, batch), batch["label"].flip(0))


def test_public_functions_of_the_mechanism_say_what_they_do():
    public = [*vars(taps.Taps).items(), *vars(attach).items()]
    functions = [value for name, value in public if inspect.isfunction(value) and not name.startswith("_")]
    assert [function.__name__ for function in functions if not function.__doc__] == []
