"""How a trainer is read where its modules, calls or passes are not the usual ones, and what the log says of it."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cpt_plugin.errors import ConfigError, HookError
from cpt_plugin.hook import CPTHook
from cpt_plugin.regularizers import FeatureBatch
from tests.hook.foreign_trainer import ForeignTrainer, clip_model
from tests.hook.test_never_silently_wrong import assert_exact, batch_of, by_hand, hooked, term
from tests.hook.toy_regularizer import ToyRegularizer
from tests.hook.toy_trainers import CLASSES, WIDTH, CoOpModel, CoOpTrainer, MaPLeModel, MaPLeTrainer, cosine_logits


class Residual(nn.Module):
    """Learned text features, no CLIP in it, as TaskRes's prompt learner."""

    def __init__(self):
        super().__init__()
        self.register_buffer("base", torch.randn(CLASSES, WIDTH, dtype=torch.float64))
        self.residual = nn.Parameter(torch.zeros(CLASSES, WIDTH, dtype=torch.float64))

    def forward(self):
        return self.base + self.residual


class ResidualModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"learner": Residual()})
        self.image_encoder = CoOpModel().image_encoder

    def encode(self, image):
        return self.heads["learner"](), self.image_encoder(image)

    def head(self, text, image, label):
        return cosine_logits(text, image)

    def forward(self, image):
        return self.head(*self.encode(image), None)


class ResidualTrainer(CoOpTrainer):
    model_class = ResidualModel
    frozen_text_features = None


del ResidualTrainer.frozen_text_features


class TestModulesByPath:
    def test_a_module_below_another(self):
        trainer, batch = ResidualTrainer(), batch_of(7)
        frozen = trainer.model.heads["learner"].base
        model = copy.deepcopy(trainer.model)
        gradient, total, _ = hooked(trainer, batch, text="heads.learner", frozen_text=frozen)
        regularizer = ToyRegularizer()
        regularizer.prepare(frozen, [])
        _, loss, text, image, labels = term(ResidualTrainer(), batch, model=model)
        parts = sum(regularizer.compute(FeatureBatch(text, image, labels)).values())
        (expected,) = torch.autograd.grad(loss + parts, list(model.parameters()))
        assert (gradient - expected.flatten()).norm() <= 1e-12 * expected.norm()
        assert total == pytest.approx(parts.item())

    def test_no_such_module_is_told_with_the_nearest(self):
        message = r"no module `head\.learner` \(did you mean 'heads\.learner'\? its own modules: heads, image_encoder\)"
        with pytest.raises(HookError, match=message):
            CPTHook(cluster_size=3, text="head.learner").attach(ResidualTrainer())

    def test_frozen_features_are_asked_for_where_the_module_holds_no_clip(self):
        trainer = ForeignTrainer(clip_model())
        trainer.model.learner = Residual()
        with pytest.raises(HookError, match=r"give CPTHook\(frozen_text="):
            CPTHook(cluster_size=3, text="learner").attach(trainer)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("text", ""), ("image", 3), ("features", "text"), ("labels", 3), ("forwards", "last"), ("backward", "third"),
         ("accumulation", 1.5)],
    )  # fmt: skip
    def test_impossible_options(self, name, value):
        with pytest.raises(ConfigError, match=f"^{name} "):
            CPTHook(cluster_size=3, **{name: value})


class TestStatedFeatures:
    class Lists(MaPLeModel):
        """Encoders that return more than features, and an output that has them."""

        def encode(self, image):
            return super().encode(image)

        def forward(self, image, label=None):
            text, features = self.encode(image)
            return {"logits": self.head(text, features, None), "seen": [text, (features, 3)]}

        def head(self, text, image, label):
            return cosine_logits(text, image)

    class Trainer(MaPLeTrainer):
        passes_labels = False

        def main_loss(self, output, label):
            return F.cross_entropy(output["logits"] if isinstance(output, dict) else output, label)

    Trainer.model_class = Lists

    def test_from_the_output_of_a_model_without_encoders(self):
        trainer, batch, model = self.Trainer(), batch_of(7), self.Lists()
        frozen = trainer.frozen_text_features()
        expected = by_hand(model, term(trainer, batch, model=model))
        features = lambda step: (step.output["seen"][0], step.output["seen"][1][0])  # noqa: E731
        found = hooked(trainer, batch, features=features, text="gone", image="away", frozen_text=frozen)
        assert_exact(found, expected)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (lambda step: step.text[3], r"failed with IndexError: list index out of range.*step\.text = \[\(6, 5\)\]"),
            (lambda step: step.text[0], r"returned \(6, 5\): return two floating-point tensors"),
            (lambda step: (step.text[0], 3), r"returned \(\(6, 5\), a int\): return two"),
            (lambda step: (step.text[0][:2], step.image[0]), r"Text features have shape \(2, 5\)"),
            (lambda step: (step.text[0], step.image[0][:, :2]), "Image features have 2 dimensions"),
            (lambda step: (step.text[0], step.image[0][None]), r"image features of shape \(1, 7, 5\)"),
            (lambda step: (step.text[0].detach(), step.image[0].detach()), "Nothing to regularize"),
        ],
    )
    def test_functions_of_no_use(self, features, message):
        with pytest.raises(HookError, match=message):
            hooked(MaPLeTrainer(), batch_of(7), features=features)


class TestSeveralPasses:
    class ProGradLike(CoOpTrainer):
        """Two losses of one output; the gradient of the second, without its part against the first's, trains."""

        def forward_backward(self, batch):
            output = self.model(batch["img"])
            self.optim.zero_grad()
            output.square().mean().backward(retain_graph=True)
            self.first = flat(self.model)
            self.optim.zero_grad()
            F.cross_entropy(output, batch["label"]).backward()

    @pytest.mark.parametrize("which", ["first", "second"])
    def test_the_regularizer_goes_with_one_of_two_backward_passes(self, which):
        batch, trainer = batch_of(7), self.ProGradLike()
        hooked(trainer, batch, backward=which)
        for name, found in (("first", trainer.first), ("second", flat(trainer.model))):
            model = CoOpModel()
            text, image = model.encode(batch["img"])
            logits = cosine_logits(text, image)
            loss = logits.square().mean() if name == "first" else F.cross_entropy(logits, batch["label"])
            expected = plain(model, loss)
            if name == which:
                expected, _ = by_hand(model, (1.0, loss, text, image, batch["label"]))
            assert (found - expected).norm() <= 1e-12 * expected.norm(), name

    def test_without_a_statement_it_is_refused(self):
        with pytest.raises(HookError, match=r'more than once.*backward="first"\) or "second"'):
            hooked(self.ProGradLike(), batch_of(7))

    def test_a_pass_that_never_comes_is_refused(self):
        with pytest.raises(HookError, match="never back-propagated"):
            hooked(CoOpTrainer(), batch_of(7), backward="second")


def flat(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def plain(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])


class TestWhatTheLogSays:
    class Adapted(MaPLeModel):
        """An adapter after the features."""

        def __init__(self):
            super().__init__()
            self.adapter = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

        def head(self, text, image, label):
            return super().head(text, self.adapter(image), label)

    class Trainer(MaPLeTrainer):
        pass

    Trainer.model_class = Adapted

    def test_modules_shapes_and_what_comes_after(self, caplog):
        caplog.set_level("INFO", "cpt_plugin")
        trainer = self.Trainer()
        CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        assert caplog.messages == [
            "CPTHook on Trainer: text features from model.text_encoder (ToyTextEncoder), image features from "
            "model.image_encoder (ToyImageEncoder)"
        ]
        caplog.clear()
        for _ in range(2):
            trainer.forward_backward(batch_of(7))
        assert caplog.messages == [
            "regularized: text features (6, 5), image features (7, 5); 1 call of model.text_encoder, 1 call of "
            "model.image_encoder",
            "trained, but out of the regularizers' reach (they come after the features, or beside them): model.adapter "
            "(30 parameters)",
        ]

    def test_features_without_gradient(self, caplog):
        caplog.set_level("INFO", "cpt_plugin")
        hooked(CoOpTrainer(), batch_of(7))
        assert "image features (7, 5) without gradient" in caplog.text
        assert "out of the regularizers' reach" not in caplog.text

    @pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy])
    def test_copies_that_ran(self, caplog, clone):
        class Meta(MaPLeTrainer):
            def main_loss(self, output, label):
                inner = clone(self.model)
                return output + inner(self.batch["img"], self.batch["label"])

        caplog.set_level("INFO", "cpt_plugin")
        trainer = Meta()
        trainer.batch = batch_of(7)
        CPTHook(regularizers=[ToyRegularizer()]).attach(trainer)
        for _ in range(2):
            trainer.forward_backward(trainer.batch)
        assert caplog.text.count("copies of the model or of its encoders ran with gradients on") == 1


@pytest.mark.parametrize("steps", [200, pytest.param(3000, marks=pytest.mark.long)])
def test_many_steps_leave_nothing_behind(steps):
    """Objects and hooks stay as many as after the first steps, and none is left after detaching."""

    def hooks(model):
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)

    def tensors():
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    trainer, batch = MaPLeTrainer(init_scale=2.0**10), batch_of(3)
    before = hooks(trainer.model), torch.autograd.backward, torch.amp.GradScaler.scale
    handle = CPTHook(weighting="balanced", rho_momentum=0.9, cluster_size=3).attach(trainer)
    for _ in range(10):
        trainer.forward_backward(batch)
    attached, objects = hooks(trainer.model), tensors()
    for _ in range(steps - 10):
        trainer.forward_backward(batch)
    assert hooks(trainer.model) == attached > before[0]
    assert abs(tensors() - objects) <= 5
    handle.detach()
    assert (hooks(trainer.model), torch.autograd.backward, torch.amp.GradScaler.scale) == before
    assert "forward_backward" not in vars(trainer)
