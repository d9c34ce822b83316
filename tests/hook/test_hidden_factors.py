"""What a trainer does to its loss out of the hook's sight, or late, or only sometimes: exact, or refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin.errors import HookError
from cpt_plugin.hook import CPTHook
from tests.hook.test_never_silently_wrong import assert_exact, batch_of, by_hand, hooked, refused_after, term
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import CLASSES, CoOpModel, CoOpTrainer, MaPLeModel, MaPLeTrainer, cosine_logits


def smooth(logits, label):
    return F.cross_entropy(logits, label, label_smoothing=0.2)


def focal(logits, label):
    return ((1 - F.softmax(logits, 1).gather(1, label[:, None])[:, 0]) ** 2 * F.cross_entropy(
        logits, label, reduction="none")).mean()  # fmt: skip


def with_loss(loss, base=CoOpTrainer, **attributes):
    """A trainer of that class with a main loss of its own."""
    return type("Own", (base,), {"main_loss": lambda self, output, label: loss(output, label), **attributes})()


class Dual(CoOpModel):
    """Two heads."""

    def head(self, text, image, label):
        logits = cosine_logits(text, image)
        return logits, logits.tanh()


class TestDivisors:
    @pytest.mark.parametrize(
        "loss",
        [
            lambda logits, label: 0 + smooth(logits, label) / 4,
            lambda logits, label: smooth(logits, label) / 4 + logits.square().mean() / 4,
            lambda logits, label: sum([smooth(logits, label) * 0.25, logits.square().mean() / 4, logits.std() / 4]),
            lambda logits, label: (smooth(logits, label) / 4).unsqueeze(0).mean(),
            lambda logits, label: 1024 * smooth(logits, label) + 1024 * logits.square().mean(),
        ],
    )
    def test_a_factor_in_front_of_every_term_is_seen(self, loss):
        with pytest.raises(HookError, match=r"factor in front of the loss is (0\.25|1024)"):
            hooked(with_loss(loss), batch_of(7))

    @pytest.mark.parametrize("loss", [smooth, focal, lambda z, y: smooth(z, y) + 8 * z.square().mean()])
    def test_other_losses_without_one_are_exact(self, loss):
        trainer, batch, model = with_loss(loss), batch_of(7), CoOpModel()
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))

    def test_a_dictionary_of_losses_each_divided(self):
        class Losses(MaPLeModel):
            def head(self, text, image, label):
                logits = cosine_logits(text, image)
                return {"ce": F.cross_entropy(logits, label), "score": text.square().mean()}

        trainer = with_loss(lambda out, _: sum(v / 4 for v in out.values()), MaPLeTrainer, model_class=Losses)
        with pytest.raises(HookError, match=r"factor in front of the loss is 0\.25"):
            hooked(trainer, batch_of(7))

    def test_two_heads_summed_and_accumulated_are_ambiguous(self):
        def loss(output, label):
            return (F.cross_entropy(output[0], label) + F.cross_entropy(output[1], label)) / 2

        with pytest.raises(HookError, match=r"trainer\.accum_steps = 2.*weight 0\.5, 0\.5"):
            hooked(with_loss(loss, model_class=Dual, accum_steps=2), batch_of(7))
        trainer, batch, model = with_loss(loss, model_class=Dual), batch_of(7), Dual()
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))

    def test_an_average_that_turns_out_to_be_accumulation_is_refused_before_the_update(self):
        class Hidden(CoOpTrainer):
            model_class = Dual

            def forward_backward(self, batch):
                heads = self.model(batch["img"])
                (sum(F.cross_entropy(logits, batch["label"]) for logits in heads) / 2).backward()

        refused_after(Hidden(), r"Gradients are accumulated over several steps.*accumulation=N")

    def test_a_factor_that_changes_is_seen_although_another_loss_comes_last(self):
        class Adversarial(CoOpTrainer):
            factor = 1.0

            def forward_backward(self, batch):
                self.optim.zero_grad()
                (self.factor * F.cross_entropy(self.model(batch["img"]), batch["label"])).backward()
                torch.nn.Linear(2, 1)(torch.ones(2)).sum().backward()

        refused_after(Adversarial(), r"weight 0\.5", factor=0.5)

    @pytest.mark.parametrize(("trainer_class", "divisor"), [(CoOpTrainer, 2), (CoOpTrainer, 1), (MaPLeTrainer, 1)])
    def test_a_stated_divisor_that_all_contradicts(self, trainer_class, divisor):
        with pytest.raises(HookError, match=r"accumulation=4 is stated, but"):
            hooked(trainer_class(divisor=divisor), batch_of(7), accumulation=4)

    def test_terms_scaled_one_by_one(self):
        class Amp(CoOpTrainer):
            def forward_backward(self, batch):
                logits = self.model(batch["img"])
                self.optim.zero_grad()
                terms = [F.cross_entropy(logits, batch["label"]), logits.square().mean()]
                sum(self.scaler.scale(terms)).backward()
                for p in self.model.parameters():
                    p.grad /= 1024

        trainer, batch, model = Amp(init_scale=1024.0), batch_of(7), CoOpModel()
        weight, loss, text, image, label = term(trainer, batch, model=model)
        loss = loss + cosine_logits(text, image).square().mean()
        assert_exact(hooked(trainer, batch), by_hand(model, (weight, loss, text, image, label)))


class TestReturnedLosses:
    @pytest.mark.parametrize("change", [torch.neg, torch.log, lambda x: 0.7 * x, lambda x: torch.exp(-x.detach()) * x])
    def test_a_weight_that_is_no_divisor_is_refused(self, change):
        with pytest.raises(HookError, match=r"loss that the model returned is back-propagated with the weight"):
            hooked(with_loss(lambda out, _: change(out), MaPLeTrainer), batch_of(7))

    def test_stated_to_belong_to_the_loss(self):
        trainer, batch, model = with_loss(lambda out, _: 0.7 * out, MaPLeTrainer), batch_of(7), MaPLeModel()
        expected = by_hand(model, term(trainer, batch, model=model))
        assert_exact(hooked(trainer, batch, accumulation=1), expected)

    def test_a_loss_scale_made_by_hand(self):
        trainer, batch, model = with_loss(lambda out, _: 128 * out, MaPLeTrainer), batch_of(7), MaPLeModel()
        weight, loss, *features = term(MaPLeTrainer(), batch, 128.0, model)
        assert_exact(hooked(trainer, batch), by_hand(model, (weight, loss, *features)))

    def test_an_auxiliary_scalar_is_not_taken_for_the_loss(self):
        class Scored(MaPLeModel):
            def head(self, text, image, label):
                return cosine_logits(text, image), text.square().mean()

        with pytest.raises(HookError, match="with the weight 8"):
            hooked(with_loss(lambda out, _: 8 * out[1], MaPLeTrainer, model_class=Scored), batch_of(7))

    def test_the_loss_of_the_step_before(self):
        class Delayed(MaPLeTrainer):
            last = 0.0

            def forward_backward(self, batch):
                loss = self.model(batch["img"], batch["label"])
                (loss + self.last).backward(retain_graph=True)
                self.last = loss

        refused_after(Delayed(), "output of an earlier training step")


class TestForwards:
    class Both(CoOpTrainer):
        passes_labels = True
        order, together = (0, 1), True

        def forward_backward(self, *batches):
            self.optim.zero_grad()
            losses = []
            for i in self.order:
                batch = batches[i]
                given = (batch["img"], batch["label"]) if "label" in batch else (batch["img"],)
                losses.append(self.loss(self.model(*given), batches[0]["label"]))
                if not self.together:
                    losses[-1].backward()
            if self.together:
                sum(losses).backward()

        loss = staticmethod(focal)

    @pytest.mark.parametrize("loss", [focal, lambda z, y: F.cross_entropy(z, y, reduction="sum")])
    def test_losses_that_are_no_mean_cross_entropy_do_not_weight_a_forward(self, loss):
        trainer = self.Both()
        trainer.loss = loss
        batch = batch_of(7)
        with pytest.raises(HookError, match="how its forwards are weighted is unknown"):
            hooked(trainer, batch, {**batch_of(7, seed=12), "label": batch["label"]})

    def test_one_after_the_other_they_are_exact(self):
        trainer, model, first = self.Both(), CoOpModel(), batch_of(7)
        trainer.together = False
        second = {**batch_of(7, seed=12), "label": first["label"]}
        terms = []
        for batch in (first, second):
            weight, _, text, image, label = term(trainer, batch, model=model)
            terms.append((weight, focal(cosine_logits(text, image), label), text, image, label))
        assert_exact(hooked(trainer, first, second), by_hand(model, *terms))

    @pytest.mark.parametrize("options", [{}, {"forwards": "first"}])
    def test_images_of_an_unlabeled_batch_have_no_labels(self, options):
        trainer = self.Both()
        trainer.order = (1, 0)
        with pytest.raises(HookError, match=r"images of another batch.*no labels.*labels=lambda"):
            hooked(trainer, batch_of(7), {"img": batch_of(7, seed=12)["img"]}, **options)

    def test_the_same_images_again_have_the_same_labels(self):
        class Sharp(CoOpTrainer):
            """Sharpness-aware: a step up, and the gradient there."""

            def forward_backward(self, batch):
                for _ in range(2):
                    self.optim.zero_grad()
                    F.cross_entropy(self.model(batch["img"]), batch["label"]).backward()

        trainer, batch, model = Sharp(), batch_of(7), CoOpModel()
        gradient, total, _ = hooked(trainer, batch)
        expected, added = by_hand(model, term(trainer, batch, model=model))
        assert (gradient - expected).norm() <= 1e-12 * expected.norm()
        assert total == pytest.approx(2 * added), "the sum over both back-propagations"

    def test_a_model_that_calls_itself_is_one_forward(self):
        class Recursive(MaPLeModel):
            def forward(self, image, label=None, inner=False):
                if inner:
                    return self.head(*self.encode(image), label)
                with torch.no_grad():
                    teacher = self(image, label, inner=True)
                return self.head(*self.encode(image), label) + teacher

        trainer = with_loss(lambda out, _: out, MaPLeTrainer, model_class=Recursive)
        batch, model = batch_of(7), MaPLeModel()
        assert_exact(hooked(trainer, batch), by_hand(model, term(trainer, batch, model=model)))


class TestLabels:
    def test_a_reordering_that_begins_later_is_seen(self):
        class Later(CoOpTrainer):
            turned = False

            def parse(self, batch):
                if self.turned:
                    return 1.5 * batch["img"].flip(0), batch["label"].flip(0)
                return batch["img"], batch["label"]

        refused_after(Later(), "computed with other labels", turned=True)

    @pytest.mark.parametrize("name", ["rotation_label", "target", "y_attr"])
    def test_other_labels_beside_the_batchs_images_are_ambiguous(self, name):
        scope: dict = {}
        exec(f"def forward(self, image, {name}):\n    return self.head(*self.encode(image), None)", scope)
        model_class = type("Rotated", (CoOpModel,), {"forward": scope["forward"]})

        class Trainer(CoOpTrainer):
            def forward_backward(self, batch):
                logits = self.model(batch["img"], batch["label"].flip(0))
                F.cross_entropy(logits, batch["label"]).backward()

        Trainer.model_class = model_class
        with pytest.raises(HookError, match=rf"given the batch's images, and as {name} other whole numbers"):
            hooked(Trainer(), batch_of(7))
        batch, model = batch_of(7), CoOpModel()
        found = hooked(Trainer(), batch, labels=lambda step: batch["label"])
        assert_exact(found, by_hand(model, term(CoOpTrainer(), batch, model=model)))

    @pytest.mark.parametrize("shape", ["column", "tuple", "arguments"])
    def test_batches_of_other_shapes(self, shape):
        class Loose(CoOpTrainer):
            def forward_backward(self, *given):
                image, label = (given[0]["img"], given[0]["label"]) if shape == "column" else given[-2:] if len(
                    given) > 1 else given[0]  # fmt: skip
                loss = F.cross_entropy(self.model(image), label.view(-1))
                loss.backward()

        batch, model = batch_of(7), CoOpModel()
        image, label = batch["img"], batch["label"]
        column = {"img": image, "label": label[:, None]}
        given = {"column": (column,), "tuple": ((image, label),), "arguments": (image, label)}[shape]
        assert_exact(hooked(Loose(), *given), by_hand(model, term(Loose(), batch, model=model)))

    @pytest.mark.parametrize("wrong", [-1, CLASSES])
    def test_labels_out_of_range(self, wrong):
        batch = batch_of(7)
        batch["label"][2] = wrong
        trainer = with_loss(lambda z, y: F.cross_entropy(z, y.clamp(0, CLASSES - 1)))
        with pytest.raises(HookError, match=rf"Labels run from .*{wrong}.* 6 class names have the labels 0 to 5"):
            hooked(trainer, batch)


class TestTheStep:
    def test_features_are_those_that_the_encoder_returned(self):
        class InPlace(CoOpModel):
            def forward(self, image, label=None):
                text, features = self.encode(image)
                features /= features.norm(dim=-1, keepdim=True)
                return cosine_logits(text, features)

        trainer, batch, model = with_loss(F.cross_entropy, model_class=InPlace), batch_of(7), CoOpModel()
        found = hooked(trainer, batch)
        assert torch.equal(found[2].batches[0].image, model.image_encoder(batch["img"]))
        assert_exact(found, by_hand(model, term(trainer, batch, model=model)))

    def test_a_loop_that_never_calls_forward_backward_is_told(self, caplog):
        trainer, batch = CoOpTrainer(), batch_of(7)
        handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        for _ in range(3):
            F.cross_entropy(trainer.model(batch["img"]), batch["label"]).backward()
        handle.detach()
        assert "ran with gradients, but never inside forward_backward: nothing was regularized" in caplog.text
        CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        for _ in range(9):
            trainer.model(batch["img"])
        with pytest.raises(HookError, match=r"run 10 times.*never inside trainer\.forward_backward"):
            trainer.model(batch["img"])

    def test_a_refusal_stands_where_the_trainer_swallows_it(self):
        class Tolerant(CoOpTrainer):
            def forward_backward(self, batch):
                loss = F.cross_entropy(self.model(batch["img"]), batch["label"]) / 4
                try:
                    loss.backward()
                except RuntimeError:
                    return {"loss": 0.0}
                return {"loss": loss.item()}

        trainer = Tolerant()
        CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        with pytest.raises(HookError, match=r"weight 0\.25"):
            trainer.forward_backward(batch_of(7))
        with pytest.raises(HookError, match=r"An earlier step was refused.*weight 0\.25"):
            trainer.forward_backward(batch_of(7))

    def test_names_that_the_trainer_logs_itself_stay_its_own(self):
        class Logging(CoOpTrainer):
            def forward_backward(self, batch):
                return {**super().forward_backward(batch), "loss_align": 5.0}

        trainer = Logging()
        handle = CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        summary = trainer.forward_backward(batch_of(7))
        assert summary["loss_align"] == 5.0
        assert summary["cpt_loss_align"] == handle.parts["align"]
        assert summary["loss_reg"] == handle.total
