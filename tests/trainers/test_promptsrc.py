"""PromptSRC: its loss terms by formula, what they hold still, the average of prompts, and kills around epochs' ends."""

from __future__ import annotations

import math

import pytest
import torch

from cpt_plugin.cli.repository import config_file, default_cfg
from cpt_plugin.encoders import ImageEncoder, TextEncoder, tokenize
from cpt_plugin.encoders.templates import imagenet_templates
from cpt_plugin.errors import CheckpointError, ConfigError
from cpt_plugin.toolkit import build_trainer, load_checkpoint, set_random_seed
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.trainers.problems import perturb
from trainers._base import PromptTrainer
from trainers.promptsrc import TEMPLATES, PromptAverage, PromptSRC, epoch_weights


def build(folder, output, *options):
    set_random_seed(1)
    return build_trainer(prompt_cfg(folder, output, "PromptSRC", *options))


def images(count):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# -- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("templates", TEMPLATES)
def test_terms_follow_the_formulas(folder, tmp_path, templates):
    """Entry by entry in float64, from features that the encoders give."""
    weights = ("TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT", 3.0, "TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT", 0.5)
    trainer = build(folder, tmp_path, "TRAINER.PROMPTSRC.TEMPLATES", templates, *weights)
    perturb(trainer.model.prompt_learner)
    image, label = images(3), torch.tensor([1, 3, 0])
    names = trainer.dm.dataset.classnames
    sentences = {"published": imagenet_templates()[:60], "ensemble": TEMPLATES["ensemble"]}.get(
        templates, ("a photo of a {}.",)
    )
    with torch.no_grad():
        prediction = trainer.model(image, label, with_features=True)
        parts = trainer.loss_parts(prediction, image, label)
        encoder = TextEncoder(trainer.clip)
        encoded = [encoder.encode_ids(tokenize([s.format(n) for n in names], trainer.clip)) for s in sentences]
        frozen_text = sum(e.double() for e in encoded) / len(sentences)
        frozen_image = ImageEncoder(trainer.clip)(image).double()
    frozen_text, frozen_image = (f / f.norm(dim=1, keepdim=True) for f in (frozen_text, frozen_image))
    text, seen, logits = prediction.text.double(), prediction.image.double(), prediction.logits.double()
    frozen_logits = trainer.clip.logit_scale.double() * frozen_image @ frozen_text.T
    q, p = (z.exp() / z.exp().sum(dim=1, keepdim=True) for z in (frozen_logits, logits))
    expected = {
        "ce": -sum(p[i, c].log() for i, c in enumerate(label.tolist())) / 3,
        "scl_text": 3.0 * (text - frozen_text).abs().sum() / text.numel(),
        "scl_image": 0.5 * (seen - frozen_image).abs().sum() / seen.numel(),
        "scl_logits": (q * (q / p).log()).sum() / logits.numel(),
    }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value.item(), rel=1e-4), name
        assert value > 1e-3, name


def test_frozen_side_gets_no_gradient_and_nothing_of_it_is_saved(folder, tmp_path):
    trainer = build(folder, tmp_path)
    image, label = images(2), torch.tensor([0, 1])
    prediction = trainer.model(image, label, with_features=True)
    sum(trainer.loss_parts(prediction, image, label).values()).backward()
    trained = {name for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert trained == {f"prompt_learner.{name}" for name, _ in trainer.model.prompt_learner.named_parameters()}
    assert not trainer.frozen_text.requires_grad
    assert not any(p.requires_grad for p in trainer.frozen_image_encoder.parameters())


def test_without_visual_prompts_the_image_term_is_zero(folder, tmp_path):
    trainer = build(folder, tmp_path, "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", 0)
    image, label = images(2), torch.tensor([0, 1])
    parts = trainer.loss_parts(trainer.model(image, label, with_features=True), image, label)
    assert parts["scl_image"].item() == 0
    assert parts["scl_text"] > 0


def test_all_terms_are_logged_and_add_up(folder, tmp_path):
    trainer = train(prompt_cfg(folder, tmp_path, "PromptSRC"))
    meters = trainer.losses.meters
    assert {"loss_ce", "loss_scl_text", "loss_scl_image", "loss_scl_logits"} <= meters.keys()
    total = sum(meter.avg for name, meter in meters.items() if name.startswith("loss_"))
    assert meters["loss"].avg == pytest.approx(total, rel=1e-5)


# -- average of prompts ------------------------------------------------------------------------------------------


def test_weights_are_a_normalized_gauss():
    raw = [math.exp(-((t - 15) ** 2) / 2) / math.sqrt(2 * math.pi) for t in range(1, 21)]
    expected = torch.tensor([r / sum(raw) for r in raw], dtype=torch.float64)
    torch.testing.assert_close(epoch_weights(20, 15, 1), expected, rtol=1e-12, atol=0)
    assert epoch_weights(20, 15, 1).argmax() == 14


def test_weights_exist_where_the_density_underflows():
    """Five epochs under a mean of 60: every density is 0 in floating point, and the last epoch counts."""
    assert epoch_weights(5, 60, 1)[-1].item() == pytest.approx(1)


def test_average_leaves_frozen_parameters_alone():
    learner = torch.nn.Linear(2, 1)
    learner.bias.requires_grad_(False)
    start = {name: value.clone() for name, value in learner.state_dict().items()}
    average = PromptAverage()
    average.add(learner, 0.25)
    average.add(learner, 0.25)
    average.copy_to(learner)
    assert torch.equal(learner.bias, start["bias"])
    torch.testing.assert_close(learner.weight, 0.5 * start["weight"])


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run of three epochs, with the prompts at the end of each as training left them."""
    output, seen = tmp_path_factory.mktemp("whole"), []

    def add(self, learner, weight):
        seen.append({name: value.detach().double().clone() for name, value in learner.named_parameters()})
        original(self, learner, weight)

    original = PromptAverage.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptAverage, "add", add)
        train(prompt_cfg(folder, output, "PromptSRC", "TRAIN.CHECKPOINT_FREQ", 1))
    return output, seen


def prompts(output, epoch):
    return load_checkpoint(str(output / "VLPromptLearner" / f"model.pth.tar-{epoch}"))["state_dict"]


def test_last_model_holds_the_average_and_earlier_ones_their_own_prompts(whole):
    output, seen = whole
    weights = [math.exp(-((t - 2) ** 2) / 2) for t in (1, 2, 3)]
    assert len(seen) == 3
    for name, value in prompts(output, 3).items():
        average = sum(w * epoch[name] for w, epoch in zip(weights, seen, strict=True)) / sum(weights)
        torch.testing.assert_close(value.double(), average, rtol=1e-6, atol=1e-8)
        assert not torch.equal(value.double(), seen[2][name])
        for epoch in (1, 2):
            assert torch.equal(prompts(output, epoch)[name].double(), seen[epoch - 1][name])


def test_evaluation_after_training_uses_the_average(folder, tmp_path):
    trainer = train(prompt_cfg(folder, tmp_path, "PromptSRC"))
    saved = prompts(tmp_path, 3)
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.prompt_learner.state_dict().items())


class Killed(BaseException):
    """Ends a run at once, as a kill would."""


ENDS = {
    "after the last step of an epoch": (PromptSRC, "after_epoch", 0),
    "after the average took an epoch in": (PromptTrainer, "after_epoch", 1),
    "after the last epoch's average": (PromptTrainer, "after_epoch", 2),
    "between the last model and its state": (PromptSRC, "save_state", 2),
}


@pytest.mark.parametrize("moment", ENDS)
def test_stopped_around_the_end_of_an_epoch_it_ends_with_the_same_bits(folder, tmp_path, monkeypatch, whole, moment):
    owner, method, epoch = ENDS[moment]
    original = getattr(owner, method)

    def stopped(self, *args):
        is_end = method == "after_epoch" or args[1] == 0
        if self.epoch == epoch and is_end:
            raise Killed
        return original(self, *args)

    frequency = ("TRAIN.CHECKPOINT_FREQ", 1) if epoch < 2 else ()
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, stopped)
        with pytest.raises(Killed):
            train(prompt_cfg(folder, tmp_path, "PromptSRC", *frequency))
    train(prompt_cfg(folder, tmp_path, "PromptSRC", *frequency, "RESUME", tmp_path))
    last, expected = prompts(tmp_path, 3), prompts(whole[0], 3)
    assert all(torch.equal(value, expected[name]) for name, value in last.items())


def test_epochs_missing_from_the_average_stop_the_training(folder, tmp_path):
    """A toolkit that resumes without the average must not end with prompts averaged over some epochs."""
    trainer = build(folder, tmp_path)
    trainer.epoch = 1
    with pytest.raises(CheckpointError, match="Epoch 2 begins, but the averaged prompts hold 0 epochs"):
        trainer.before_epoch()


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TRAINER.PROMPTSRC.GPA_STD", 0.0), r"GPA_STD must be positive"),
        (("TRAINER.PROMPTSRC.TEMPLATES", "all"), r"TEMPLATES must be one of published, ensemble, single, not 'all'"),
        (("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", 4), r"vision prompt depth 4 is not within 1\.\.3"),
    ],
)
def test_settings_without_meaning_are_refused(folder, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(folder, tmp_path, *options)


def test_weights_of_the_losses_do_not_change_what_prompts_mean(folder, tmp_path, whole):
    trainer = build(folder, tmp_path, "TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT", 1.0, "TRAINER.PROMPTSRC.GPA_MEAN", 9.0)
    trainer.load_model(str(whole[0]), epoch=3)
    saved = prompts(whole[0], 3)
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.prompt_learner.state_dict().items())


def test_micro_settings_average_around_an_epoch_that_there_is():
    cfg = default_cfg()
    cfg.merge_from_file(config_file("trainers", "PromptSRC", "micro"))
    assert 1 <= cfg.TRAINER.PROMPTSRC.GPA_MEAN <= cfg.OPTIM.MAX_EPOCH


def test_published_templates_are_sixty_of_clips_eighty():
    assert len(set(imagenet_templates())) == 80
    assert len(TEMPLATES["published"]) == 60
    assert all(sentence.count("{}") == 1 for sentence in imagenet_templates())
    assert set(TEMPLATES["ensemble"]) <= set(imagenet_templates())
