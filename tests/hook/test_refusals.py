"""Every refusal in a training step states its reason and its remedy; those before it: test_attach_refusals.py."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cpt_plugin.errors import HookError, TrainingError
from cpt_plugin.hook import CPTHook
from tests.hook.toy_regularizer import ToyRegularizer, toy_hook
from tests.hook.toy_trainers import (
    BATCH,
    CLASSES,
    WIDTH,
    CoCoOpTrainer,
    CoOpTrainer,
    MaPLeTrainer,
    make_batch,
)

STATED = r"say which tensors they are in one line, e\.g\. CPTHook\(features=lambda step: "


def refuse_step(trainer, message, batch=None, **options):
    handle = toy_hook(**options).attach(trainer)
    with pytest.raises(HookError, match=message):
        trainer.forward_backward(make_batch() if batch is None else batch)
    return handle


def trainer_with(encode=None, trainer_class=MaPLeTrainer):
    """A trainer whose model encodes by ``encode(model, image)``."""
    trainer = trainer_class()
    model = trainer.model
    if encode is not None:
        model.encode = lambda image: encode(model, image)
    return trainer


def unit_text(model, context):
    return F.normalize(model.text_encoder(model.names + context), dim=-1)


class TestInTheStep:
    def test_text_encoder_never_called(self):
        def encode(model, image):
            return model.names @ model.text_encoder.mix, model.image_encoder(image, model.visual)

        refuse_step(trainer_with(encode), r"text encoder \(text_encoder\) was never called.*VPT.*set all weights to 0")

    def test_image_encoder_never_called(self):
        def encode(model, image):
            return model.text_encoder(model.names + model.context), image @ model.image_encoder.mix

        refuse_step(trainer_with(encode), rf"image encoder \(image_encoder\) was never called.*{STATED}")

    def test_text_encoder_called_twice(self):
        def encode(model, image):
            model.text_encoder(model.names + 2 * model.context)
            return type(model).encode(model, image)

        message = rf"text encoder was called 2 times.*checkpointing.*{STATED}\(step\.text\[0\], step\.image\[0\]\)"
        refuse_step(trainer_with(encode), message)

    def test_image_encoder_called_twice(self):
        def encode(model, image):
            model.image_encoder(image, 2 * model.visual)
            return type(model).encode(model, image)

        refuse_step(trainer_with(encode), rf"image encoder was called 2 times.*{STATED}")

    def test_text_encoder_called_for_some_images_only(self):
        def encode(model, image):
            text, features = type(model).encode(model, image)
            model.text_encoder(model.names + model.context)
            return text, features

        message = f"called {BATCH + 1} times in one forward of {BATCH} images.*one for each image"
        refuse_step(trainer_with(encode, CoCoOpTrainer), message)

    @pytest.mark.parametrize("kind", ["text", "image"])
    def test_encoder_output_that_is_no_tensor(self, kind):
        trainer = MaPLeTrainer()
        encoder = getattr(trainer.model, f"{kind}_encoder")
        encoder.forward = lambda *args: (type(encoder).forward(encoder, *args), "tokens")
        trainer.model.head = lambda text, image, label: (text[0] if kind == "text" else image[0]).square().mean()
        handle = toy_hook(frozen_text=torch.ones(CLASSES, WIDTH)).attach(trainer)
        with pytest.raises(HookError, match=rf"{kind} encoder returned \(.*step\.{kind}\[0\]\[0\]"):
            trainer.forward_backward(make_batch())
        handle.detach()

    def test_image_features_of_tokens(self):
        trainer = MaPLeTrainer()
        encoder = trainer.model.image_encoder
        encoder.forward = lambda *args: type(encoder).forward(encoder, *args)[:, None].expand(-1, 3, -1)
        trainer.model.head = lambda text, image, label: image.square().mean()
        refuse_step(trainer, r"image features of shape \(7, 3, 5\).*one vector an image.*step\.image\[0\]\[:, 0\]")

    @pytest.mark.parametrize("shape", [(CLASSES - 1, WIDTH), (CLASSES, WIDTH + 1)])
    def test_text_features_of_other_classes_or_another_width(self, shape):
        names = [str(k) for k in range(shape[0])]
        message = rf"shape \({CLASSES}, {WIDTH}\).*{shape[0]} classes of {shape[1]} dim.*give frozen_text"
        if shape[1] != WIDTH:
            message = f"features have {WIDTH} dimensions.*features {shape[1]}: give frozen_text"
        refuse_step(MaPLeTrainer(), message, frozen_text=torch.ones(shape), class_names=names)

    def test_image_features_of_another_width(self):
        trainer = MaPLeTrainer()
        encoder = trainer.model.image_encoder
        encoder.forward = lambda *args: F.pad(type(encoder).forward(encoder, *args), (0, 2))
        trainer.model.head = lambda text, image, label: image.square().mean()
        refuse_step(trainer, f"features have {WIDTH + 2} dimensions.*features {WIDTH}: give frozen_text")

    def test_no_gradient_in_any_feature(self):
        trainer = CoOpTrainer()
        trainer.model.context.requires_grad_(False)
        refuse_step(trainer, "Nothing to regularize.*spread, align, drift.*or set the weights to 0")

    def test_text_part_alone_without_gradient_in_the_text(self):
        trainer = MaPLeTrainer()
        trainer.model.context.requires_grad_(False)
        CPTHook(regularizers=[ToyRegularizer(text_only=True)]).attach(trainer)
        with pytest.raises(HookError, match=r"Nothing to regularize.*drift.*gradient: False, image f"):
            trainer.forward_backward(make_batch())

    def test_frozen_text_with_trained_images_is_accepted(self):
        trainer = MaPLeTrainer()
        trainer.model.context.requires_grad_(False)
        handle = toy_hook().attach(trainer)
        trainer.forward_backward(make_batch())
        assert handle.total > 0

    def test_reentrant_checkpointing_of_the_text_encoder(self):
        def encode(model, image):
            return checkpoint(unit_text, model, model.context, use_reentrant=True), model.image_encoder(
                image, model.visual
            )

        message = "text encoder gave features without gradient inside.*with use_reentrant=False"
        trainer = trainer_with(encode)
        before = trainer.model.context.detach().clone()
        refuse_step(trainer, message)
        assert torch.equal(trainer.model.context, before)

    def test_reentrant_checkpointing_where_images_have_no_gradient(self):
        def encode(model, image):
            return checkpoint(unit_text, model, model.context, use_reentrant=True), model.image_encoder(image)

        refuse_step(trainer_with(encode, CoOpTrainer), "Nothing to regularize.*use_reentrant=True")

    def test_labels_missing(self):
        class NoLabels(CoOpTrainer):
            def parse(self, batch):
                return batch["img"], torch.zeros(BATCH, dtype=torch.long)

        message = rf"No labels for the {BATCH} image.*missing.*CPTHook\(labels=lambda step: "
        refuse_step(NoLabels(), message, batch={"img": make_batch()["img"]})

    def test_labels_of_another_length(self):
        class Rebuilt(CoOpTrainer):
            def parse(self, batch):
                return batch["img"].repeat(2, 1), batch["label"].repeat(2)

        message = rf"{2 * BATCH} image features.*of shape \({BATCH},\).*CPTHook\(labels=lambda step: "
        refuse_step(Rebuilt(), message)

    def test_soft_labels(self):
        class Soft(CoOpTrainer):
            def parse(self, batch):
                return batch["img"], batch["label"].long()

        batch = {**make_batch(), "label": make_batch()["label"].double()}
        refuse_step(Soft(), "of no use: labels must be integers", batch=batch)

    def test_model_called_past_its_hooks(self):
        class Direct(MaPLeTrainer):
            def forward_backward(self, batch):
                self.model.forward(batch["img"], batch["label"]).backward()

        refuse_step(Direct(), r"past its hooks \(self\.model\.forward.*nothing was regularized.*CPTLoss")

    def test_a_later_step_without_the_model(self):
        class Once(MaPLeTrainer):
            def forward_backward(self, batch):
                return super().forward_backward(batch) if batch else {}

        trainer = Once()
        toy_hook().attach(trainer)
        trainer.forward_backward(make_batch())
        with pytest.raises(HookError, match=r"nothing was regularized.*detach\(\) the hook for steps"):
            trainer.forward_backward({})

    def test_model_replaced_after_attaching(self):
        trainer = MaPLeTrainer()
        toy_hook().attach(trainer)
        trainer.model = copy.deepcopy(trainer.model)
        with pytest.raises(HookError, match=r"model was replaced.*detach\(\), attach again"):
            trainer.forward_backward(make_batch())

    def test_never_back_propagated(self):
        class Detached(MaPLeTrainer):
            def main_loss(self, output, label):
                return output.detach() + self.model.context.square().sum()

        refuse_step(Detached(), r"never back-propagated: no loss that uses what the model returned")

    def test_a_forward_whose_output_is_thrown_away(self):
        class Target(MaPLeTrainer):
            def main_loss(self, output, label):
                return output + self.model(self.batch["img"], self.batch["label"]).detach()

        trainer = Target()
        trainer.batch = make_batch()
        refuse_step(trainer, r'never back-propagated.*forwards="first".*under torch\.no_grad\(\)')

    def test_logits_back_propagated_twice(self):
        class Twice(CoOpTrainer):
            def forward_backward(self, batch):
                loss = self.main_loss(self.model(batch["img"]), batch["label"])
                loss.backward(retain_graph=True)
                loss.backward()

        refuse_step(Twice(), r'more than once.*CPTHook\(backward="first"\) or "second"')

    def test_unstated_accumulation_of_logits(self):
        message = r"weight 0\.25.*perhaps 4.*CPTHook\(accumulation=N\).*--accumulation N.*accumulation=1"
        refuse_step(CoOpTrainer(divisor=4), message)

    def test_accumulation_of_scalar_losses_needs_no_statement(self):
        trainer = MaPLeTrainer(divisor=4)
        trainer.cfg = {"OPTIM": {"ACCUMULATION_STEPS": 4}}
        toy_hook().attach(trainer)
        trainer.forward_backward(make_batch())

    @pytest.mark.parametrize("output", [{}, "text"])
    def test_outputs_without_tensors(self, output):
        trainer = MaPLeTrainer()
        trainer.model.head = lambda *args: output
        refuse_step(trainer, f"returned a {type(output).__name__}.*needs a scalar loss, logits, or a tuple")

    def test_a_regularizer_without_parts(self):
        class Empty(ToyRegularizer):
            def compute(self, batch):
                return {}

        trainer = MaPLeTrainer()
        CPTHook(regularizers=[Empty()]).attach(trainer)
        with pytest.raises(HookError, match=r"toy.*no parts: compute\(\) must give one"):
            trainer.forward_backward(make_batch())

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle.dumps])
    def test_copying_the_trainer(self, duplicate):
        trainer = CoOpTrainer()
        handle = toy_hook().attach(trainer)
        with pytest.raises(HookError, match=r"cannot be copied or pickled: detach\(\) the handle first"):
            duplicate(trainer)
        handle.detach()
        assert duplicate(trainer) is not None


class TestNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_stops_before_the_update_and_names_part_and_step(self, value):
        class Poisoned(ToyRegularizer):
            def compute(self, batch):
                parts = super().compute(batch)
                return parts if len(self.batches) < 3 else {**parts, "align": parts["align"] * value}

        trainer = MaPLeTrainer()
        trainer.epoch, trainer.batch_idx = 1, 4
        CPTHook(regularizers=[Poisoned()]).attach(trainer)
        for _ in range(2):
            trainer.forward_backward(make_batch())
        before = copy.deepcopy(trainer.model.state_dict())
        with pytest.raises(TrainingError) as caught:
            trainer.forward_backward(make_batch())
        message = str(caught.value)
        assert f"'align' of the regularizer is {value} in training step 3 (epoch 2, batch 5)" in message
        assert "text True, image True" in message
        assert "lower the learning rate" in message
        assert all(torch.equal(before[key], tensor) for key, tensor in trainer.model.state_dict().items())

    def test_says_which_features_are_at_fault_with_the_real_regularizer(self):
        trainer = MaPLeTrainer()
        CPTHook(cluster_size=3).attach(trainer)
        batch = make_batch()
        batch["img"][0, 0] = float("nan")
        with pytest.raises(TrainingError, match=r"'cc' of the regularizer is nan.*image False"):
            trainer.forward_backward(batch)
