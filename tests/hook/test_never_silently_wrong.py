"""Situations in which a hook could train on with a wrong gradient: it is exact, or it refuses and says the line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin.errors import HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.regularizers import FeatureBatch
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import (
    CLASSES,
    PIXELS,
    CoCoOpModel,
    CoCoOpTrainer,
    CoOpModel,
    CoOpTrainer,
    MaPLeModel,
    MaPLeTrainer,
    cosine_logits,
    flat_gradient,
)


def batch_of(size, seed=11):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, PIXELS, generator=generator, dtype=torch.float64)
    return {"img": image, "label": torch.randint(CLASSES, (size,), generator=generator)}


def hooked(trainer, *batches, **options):
    """(gradient of one hooked step, what the hook reported, what the regularizer saw)."""
    regularizer = ToyRegularizer()
    with CPTHook(regularizers=[regularizer], **options).attach(trainer) as handle:
        trainer.forward_backward(*batches)
    return flat_gradient(trainer.model), handle.total, regularizer


def refused_after(trainer, message, **changes):
    """A step is fine; once attributes of the trainer have changed, the next one is refused."""
    CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
    trainer.forward_backward(batch_of(7))
    for name, value in changes.items():
        setattr(trainer, name, value)
    with pytest.raises(HookError, match=message):
        trainer.forward_backward(batch_of(7))


def by_hand(model, *terms):
    """Gradient and value of a sum of (weight, loss, text, image, labels): weight * (loss + regularizer)."""
    regularizer = ToyRegularizer()
    regularizer.prepare(model.text_encoder(model.names).detach(), [])
    total, added = torch.zeros(()), 0.0
    for weight, loss, text, image, labels in terms:
        parts = sum(regularizer.compute(FeatureBatch(text, image, labels)).values())
        total = total + weight * (loss + parts)
        added += weight * parts.item()
    gradients = torch.autograd.grad(total, list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients]), added


def assert_exact(found, expected):
    gradient, total, _ = found
    assert (gradient - expected[0]).norm() <= 1e-12 * expected[0].norm()
    assert total == pytest.approx(expected[1], rel=1e-9), "what is logged is what the gradient got"


def term(trainer, batch, weight=1.0, model=None):
    model = model or trainer.model
    text, image = type(model).encode(model, batch["img"])
    label = batch["label"]
    return weight, trainer.main_loss(model.head(text, image, label), label), text, image, label


class TestWhatFeaturesMean:
    """Nothing follows from the number of calls or of rows being that of the images."""

    class Two(MaPLeModel):
        """The text encoder runs on the prompts and on other texts, with gradient, as in LASP."""

        def encode(self, image):
            text, features = super().encode(image)
            self.others = self.text_encoder(self.names.flip(0) + 2 * self.context)
            return text, features

        def head(self, text, image, label):
            return super().head(text, image, label) + (text - self.others).square().mean()

    class TwoTrainer(MaPLeTrainer):
        model_class = None

    TwoTrainer.model_class = Two
    LINE = r"features=lambda step: \(step\.text\[0\], step\.image\[0\]\)\).*step\.text = \[\(6, 5\), \(6, 5\)\]"

    @pytest.mark.parametrize("size", [1, 2, 3, CLASSES])
    def test_two_text_calls_are_refused_whatever_the_batch(self, size):
        with pytest.raises(HookError, match=rf"called 2 times in one forward of {size} images.*{self.LINE}"):
            hooked(self.TwoTrainer(), batch_of(size))

    @pytest.mark.parametrize("size", [1, 2, CLASSES])
    def test_two_text_calls_with_the_line_are_exact(self, size):
        trainer, batch = self.TwoTrainer(), batch_of(size)
        found = hooked(trainer, batch, features=lambda step: (step.text[0], step.image[0]))
        model = self.Two()
        assert_exact(found, by_hand(model, term(trainer, batch, model=model)))

    @pytest.mark.parametrize("size", [1, 2, CLASSES])
    def test_a_teacher_without_gradients_does_not_count(self, size):
        class Taught(MaPLeModel):
            def encode(self, image):
                with torch.no_grad():
                    self.text_encoder(self.names), self.image_encoder(image)
                return super().encode(image)

        class Trainer(MaPLeTrainer):
            model_class = Taught

        trainer, batch, model = Trainer(), batch_of(size), MaPLeModel()
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))

    @pytest.mark.parametrize("size", [2, 3, CLASSES])
    def test_features_of_several_prompts_are_not_those_of_each_image(self, size):
        class Ensemble(CoOpModel):
            """As many prompts as images, (N, K, d)."""

            def encode(self, image):
                prompts = self.names + self.context * torch.linspace(1, 2, size, dtype=torch.float64)[:, None, None]
                return self.text_encoder(prompts), self.image_encoder(image)

            def head(self, text, image, label):
                return cosine_logits(text.mean(0), image)

        class Trainer(CoOpTrainer):
            model_class = Ensemble

        with pytest.raises(HookError, match=r"shape \(\d, 6, 5\).*not shown to be those of each image.*\.mean\(0\)"):
            hooked(Trainer(), batch_of(size))
        model, batch = Ensemble(), batch_of(size)
        found = hooked(Trainer(), batch, features=lambda step: (step.text[0].mean(0), step.image[0]))
        weight, loss, text, image, labels = term(Trainer(), batch, model=model)
        assert_exact(found, by_hand(model, (weight, loss, text.mean(0), image, labels)))

    @pytest.mark.parametrize("size", [2, CLASSES])
    def test_as_many_calls_as_images_are_not_enough(self, size):
        class Many(CoOpModel):
            def encode(self, image):
                scales = torch.linspace(1, 2, size, dtype=torch.float64)
                texts = [self.text_encoder(self.names + s * self.context) for s in scales]
                return torch.stack(texts), self.image_encoder(image)

            def head(self, text, image, label):
                return cosine_logits(text.mean(0), image)

        class Trainer(CoOpTrainer):
            model_class = Many

        with pytest.raises(HookError, match=rf"called {size} times in one forward of {size} images.*features="):
            hooked(Trainer(), batch_of(size))

    @pytest.mark.parametrize("size", [1, 2, CLASSES])
    def test_prompts_of_each_image_are_recognized(self, size):
        trainer, batch, model = CoCoOpTrainer(), batch_of(size), CoCoOpModel()
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))

    @pytest.mark.parametrize("size", [2, CLASSES])
    def test_prompts_that_mix_the_images_are_not_those_of_each_image(self, size):
        class Mixed(CoCoOpModel):
            def encode(self, image):
                features = self.image_encoder(image)
                shifts = (features - features.mean(0)) @ self.meta
                return torch.stack([self.text_encoder(self.names + self.context + s) for s in shifts]), features

        class Trainer(CoCoOpTrainer):
            model_class = Mixed

        with pytest.raises(HookError, match="not shown to be one for each image"):
            hooked(Trainer(), batch_of(size))

    def test_looking_at_the_dependence_changes_nothing(self):
        """Buffers and random number generators after a step with per-image prompts are those of a plain step."""

        class Counting(CoCoOpModel):
            def __init__(self):
                super().__init__()
                self.register_buffer("calls", torch.zeros(()))

            def encode(self, image):
                self.calls += 1
                return super().encode(image + 0 * torch.rand(()))

        class Trainer(CoCoOpTrainer):
            model_class = Counting

        def after(weight):
            trainer = Trainer()
            torch.manual_seed(3)
            CPTHook(regularizers=[ToyRegularizer(weight)]).attach(trainer)
            trainer.forward_backward(batch_of(3))
            return trainer.model.calls.item(), torch.get_rng_state()

        (plain, draws), (regularized, same_draws) = after(0.0), after(0.7)
        assert plain == regularized == 1
        assert torch.equal(draws, same_draws)


class TestSeveralForwards:
    """``forward_backward(batch_x, batch_u)``, as in Dassl's TrainerXU."""

    class Semi(CoOpTrainer):
        weights = (1.0, 0.5)
        passes_labels, gradients = False, True

        def forward_backward(self, batch_x, batch_u):
            loss = 0.0
            for weight, batch in zip(self.weights, (batch_x, batch_u), strict=True):
                given = (batch["img"], batch["label"]) if self.passes_labels else (batch["img"],)
                with torch.set_grad_enabled(self.gradients or batch is batch_x):
                    output = self.model(*given)
                loss = loss + weight * self.main_loss(output, batch["label"])
            self.optim.zero_grad()
            loss.backward()
            return {"loss": loss.item()}

    class SemiWithLabels(Semi):
        passes_labels = True

    class Watched(Semi):
        gradients = False

    @pytest.mark.parametrize("size", [1, 2, CLASSES])
    def test_a_second_forward_without_labels_is_refused(self, size):
        lines = r"second time.*without labels.*forwards=\"first\".*no_grad\(\).*CPTHook\(labels=lambda"
        with pytest.raises(HookError, match=lines):
            hooked(self.Semi(), batch_of(size), batch_of(size, seed=12))

    @pytest.mark.parametrize("size", [1, 2, CLASSES])
    def test_the_first_forward_alone(self, size):
        batch, other = batch_of(size), batch_of(size, seed=12)
        trainer, model = self.Semi(), CoOpModel()
        weight, loss, *features = term(trainer, batch, model=model)
        loss = loss + 0.5 * term(trainer, other, model=model)[1]
        assert_exact(hooked(trainer, batch, other, forwards="first"), by_hand(model, (weight, loss, *features)))

    def test_a_second_forward_without_gradients_does_not_count(self):
        trainer, batch, model = self.Watched(), batch_of(4), CoOpModel()
        found = hooked(trainer, batch, batch_of(4, seed=12))
        assert_exact(found, by_hand(model, term(trainer, batch, model=model)))

    @pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.5), (1.0, 0.3)])
    def test_forwards_with_labels_are_each_weighted_as_their_loss(self, weights):
        batches, model = (batch_of(7), batch_of(7, seed=12)), CoOpModel()
        trainer = self.SemiWithLabels()
        trainer.weights = weights
        terms = [term(trainer, batch, weight, model) for weight, batch in zip(weights, batches, strict=True)]
        gradient, total, _ = hooked(trainer, *batches)
        expected, added = by_hand(model, *terms)
        assert (gradient - expected).norm() <= 1e-7 * expected.norm()
        assert total == pytest.approx(added, rel=1e-6)

    def test_averaged_losses_without_a_cross_entropy_are_refused(self):
        class Smooth(self.SemiWithLabels):
            def main_loss(self, output, label):
                return F.cross_entropy(output, label, label_smoothing=0.2)

        with pytest.raises(HookError, match=r"several times.*how its forwards are weighted is unknown"):
            hooked(Smooth(), batch_of(7), batch_of(7, seed=12))


class TestLabels:
    class Domains(CoOpTrainer):
        """The model is given the domain of each image before, or in place of, the labels."""

        def forward_backward(self, batch):
            given = self.arguments(batch)
            loss = self.main_loss(self.model(*given), batch["label"])
            self.optim.zero_grad()
            loss.backward()
            return {"loss": loss.item()}

    class DomainModel(CoOpModel):
        def forward(self, image, domain, label=None):
            return self.head(*self.encode(image), label)

    Domains.model_class = DomainModel
    DOMAIN = torch.tensor([0, 1, 0, 1, 0, 1, 0])

    @pytest.mark.parametrize("with_labels", [True, False])
    def test_domains_are_not_taken_for_labels(self, with_labels):
        batch, model = batch_of(7), self.DomainModel()
        trainer = self.Domains()
        trainer.arguments = lambda b: (b["img"], self.DOMAIN, b["label"])[: 2 + with_labels]
        found = hooked(trainer, batch)
        assert torch.equal(found[2].batches[0].labels, batch["label"])
        assert_exact(found, by_hand(model, term(trainer, batch, model=model)))

    def test_ambiguous_whole_numbers_are_refused(self):
        trainer = self.Domains()
        trainer.arguments = lambda b: (b["img"] * 1.5, self.DOMAIN)
        with pytest.raises(HookError, match=r"whether domain of the model's arguments are labels.*labels=lambda"):
            hooked(trainer, batch_of(7))
        batch, model = batch_of(7), self.DomainModel()
        trainer = self.Domains()
        trainer.arguments = lambda b: (b["img"] * 1.5, self.DOMAIN)
        found = hooked(trainer, batch, labels=lambda step: batch["label"])
        changed = {"img": batch["img"] * 1.5, "label": batch["label"]}
        assert_exact(found, by_hand(model, term(trainer, changed, model=model)))

    class Reordering(CoOpTrainer):
        change = staticmethod(lambda image: image)

        def parse(self, batch):
            return self.change(batch["img"].flip(0)), batch["label"].flip(0)

    def test_a_reordered_batch_is_seen_in_the_images(self):
        with pytest.raises(HookError, match=r"images in another order.*labels=lambda step: "):
            hooked(self.Reordering(), batch_of(7))

    def test_a_reordered_and_changed_batch_is_seen_on_the_logits(self):
        trainer = self.Reordering()
        trainer.change = lambda image: 1.5 * image
        with pytest.raises(HookError, match=r"computed with other labels than the regularizer.*labels=lambda step: "):
            hooked(trainer, batch_of(7))

    def test_a_reordered_batch_with_its_labels(self):
        class Passing(self.Reordering):
            passes_labels = True

        batch, model = batch_of(7), CoOpModel()
        turned = {name: value.flip(0) for name, value in batch.items()}
        assert_exact(hooked(Passing(), batch), by_hand(model, term(Passing(), turned, model=model)))

    @pytest.mark.parametrize("wrong", [lambda step: step.inputs[3], lambda step: step.inputs[0], lambda step: [1, 2]])
    def test_a_labels_function_of_no_use(self, wrong):
        with pytest.raises(HookError, match=r"labels= .*What it was given: step\.text = \[\(6, 5\)\]"):
            hooked(CoOpTrainer(), batch_of(7), labels=wrong)


class TestScale:
    """What multiplies a loss that the model does not return."""

    @pytest.mark.parametrize("place", ["fp16.helper", "grad_scaler", "unused"])
    def test_the_grad_scaler_that_is_used_counts(self, place):
        class Amp(CoOpTrainer):
            def forward_backward(self, batch):
                loss = self.main_loss(self.model(batch["img"]), batch["label"])
                scaler = self.grad_scaler if place == "grad_scaler" else getattr(self.fp16, "helper", None)
                self.optim.zero_grad()
                (scaler.scale(loss) if scaler is not None else loss).backward()
                for p in self.model.parameters():
                    p.grad /= 2.0**16 if scaler is not None else 1

        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        trainer, batch, model = Amp(), batch_of(7), CoOpModel()
        trainer.fp16, trainer.grad_scaler = SimpleNamespace(helper=None), scaler
        if place == "fp16.helper":
            trainer.fp16.helper = scaler
        if place == "unused":
            trainer.scaler = scaler
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))

    @pytest.mark.parametrize("where", ["class attribute", "property", "nested configuration"])
    def test_accumulation_is_found_wherever_it_stands(self, where):
        class Accumulating(CoOpTrainer):
            if where == "class attribute":
                accum_steps = 4
            if where == "property":
                gradient_accumulation = property(lambda self: 4)

        trainer, batch, model = Accumulating(divisor=4), batch_of(7), CoOpModel()
        if where == "nested configuration":
            trainer.cfg = SimpleNamespace(TRAIN=SimpleNamespace(LOOP=[1], STEP={"ACCUM_ITER": 4}))
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, 0.25, model)))

    def test_a_hidden_divisor_is_refused(self):
        with pytest.raises(HookError, match=r"weight 0\.25.*factor in front of the loss is 0\.25.*perhaps 4"):
            hooked(CoOpTrainer(divisor=4), batch_of(7))

    def test_a_hidden_divisor_of_another_loss_is_refused(self):
        class Smooth(CoOpTrainer):
            def main_loss(self, output, label):
                return F.cross_entropy(output, label, label_smoothing=0.2)

        batch, model = batch_of(7), CoOpModel()
        assert_exact(hooked(Smooth(), batch), by_hand(model, term(Smooth(), batch, model=model)))
        with pytest.raises(HookError, match=r"factor in front of the loss is 0\.25"):
            hooked(Smooth(divisor=4), batch)

    def test_a_scale_made_by_hand_is_refused(self):
        class ByHand(CoOpTrainer):
            def main_loss(self, output, label):
                return 128 * F.cross_entropy(output, label)

        with pytest.raises(HookError, match=r"weight 128; the factor in front of the loss is 128"):
            hooked(ByHand(), batch_of(7))

    def test_a_weight_inside_the_loss_belongs_to_the_loss(self):
        class Weighted(CoOpTrainer):
            def main_loss(self, output, label):
                return 0.7 * F.cross_entropy(output, label) + 0.3 * output.square().mean().sqrt()

        batch, model = batch_of(7), CoOpModel()
        assert_exact(hooked(Weighted(), batch), by_hand(model, term(Weighted(), batch, model=model)))

    def test_a_divisor_that_comes_later_is_refused_when_it_comes(self):
        refused_after(CoOpTrainer(), r"weight 0\.5; the factor in front of the loss is 0\.5", divisor=2)


class TestLogitsAndLoss:
    class Model(MaPLeModel):
        def head(self, text, image, label):
            logits = cosine_logits(text, image)
            return logits, F.cross_entropy(logits, label) + text.square().mean()

    class Trainer(MaPLeTrainer):
        def main_loss(self, output, label):
            return output[1]

    Trainer.model_class = Model

    def test_gradient(self):
        trainer, batch, model = self.Trainer(), batch_of(7), self.Model()
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))

    def test_balanced_weights_train_on_after_the_first_step(self):
        trainer = self.Trainer()
        handle = CPTHook(weighting="balanced", cluster_size=3).attach(trainer)
        for _ in range(3):
            trainer.forward_backward(batch_of(7))
            assert handle.total > 0


class TestAfterAFailure:
    def test_a_trainer_whose_step_failed_can_be_attached_to_again(self):
        trainer = CoOpTrainer()
        CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        with pytest.raises(KeyError):
            trainer.forward_backward({"label": batch_of(7)["label"]})
        again = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        assert "loss_reg" in trainer.forward_backward(batch_of(7))
        again.detach()
        assert set(trainer.forward_backward(batch_of(7))) == {"loss"}

    def test_a_handle_as_context_detaches(self):
        trainer = CoOpTrainer()
        with pytest.raises(KeyError), CPTHook(regularizers=[ToyRegularizer()]).attach(trainer):
            trainer.forward_backward({})
        assert set(trainer.forward_backward(batch_of(7))) == {"loss"}
