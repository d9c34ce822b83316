"""CoOp's prompts: shapes, initial words, position of the class name, and what they do to the features."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin.cli.repository import config_file, default_cfg
from cpt_plugin.encoders import TextEncoder, tokenize
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import build_trainer
from tests.helpers.prompt_runs import prompt_cfg
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import losses_of_overfitting, perturb
from trainers.coop import ContextPrompts, CoOp

NAMES = ["red square", "dog", "very_long name"]
SENTENCES = {
    "end": ["a photo of a red square.", "a photo of a dog.", "a photo of a very long name."],
    "middle": ["a photo red square of a.", "a photo dog of a.", "a photo very long name of a."],
    "front": ["red square a photo of a.", "dog a photo of a.", "very long name a photo of a."],
}


def prompts(clip, n_ctx=4, ctx_init="", class_specific=False, position="end", names=NAMES):
    torch.manual_seed(0)
    return ContextPrompts(clip, names, n_ctx, ctx_init, class_specific, position)


def features(clip, learner):
    text, image = learner.text_prompts(), learner.image_prompts()
    assert image is None
    return TextEncoder(clip)(text)


@pytest.mark.parametrize(("class_specific", "shape"), [(False, (5, 64)), (True, (3, 5, 64))])
def test_context_is_the_only_parameter_and_has_coops_shape(clip, class_specific, shape):
    learner = prompts(clip, n_ctx=5, class_specific=class_specific)
    assert {name: tuple(p.shape) for name, p in learner.state_dict().items()} == {"ctx": shape}
    assert learner.ctx.dtype == torch.float32
    assert [name for name, _ in learner.named_parameters()] == ["ctx"]


def test_random_contexts_have_coops_spread(clip):
    context = prompts(clip, n_ctx=16, class_specific=True).ctx
    assert context.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(context.mean().item()) < 0.001


@pytest.mark.parametrize("words", ["a photo of a", "a_photo_of_a"])
def test_length_that_the_words_contradict_is_refused(folder, tmp_path, words):
    options = ("TRAINER.COOP.CTX_INIT", words, "TRAINER.COOP.N_CTX")
    with pytest.raises(ConfigError, match=r"N_CTX is 16, but CTX_INIT .* has 4 words: set N_CTX 4, or leave CTX_INIT"):
        build_trainer(prompt_cfg(folder, tmp_path, "CoOp", *options, 16))
    assert build_trainer(prompt_cfg(folder, tmp_path, "CoOp", *options, 4)).model.prompt_learner.ctx.shape == (4, 64)


@pytest.mark.parametrize("name", ["micro", "vit_b16"])
def test_shipped_settings_agree_with_their_words(name):
    cfg = default_cfg()
    CoOp.check_cfg(CoOp.__new__(CoOp), cfg)
    cfg.merge_from_file(config_file("trainers", "CoOp", name))
    CoOp.check_cfg(CoOp.__new__(CoOp), cfg)


@pytest.mark.parametrize("position", SENTENCES)
def test_initial_words_stand_where_the_position_says(clip, position):
    """Closed form: before training the class features are those of the plain sentences."""
    learner = prompts(clip, ctx_init="a photo of a", position=position)
    ids = tokenize(SENTENCES[position], clip)
    assert torch.equal(learner.tokens.ids, ids)
    with torch.no_grad():
        expected = TextEncoder(clip, path="reference").encode_ids(ids)
        torch.testing.assert_close(features(clip, learner), expected, rtol=1e-5, atol=1e-6)


def test_features_equal_the_sentences_in_float64():
    clip = tiny_clip(dtype=torch.float64)
    learner = prompts(clip, ctx_init="a_photo_of_a")
    expected = TextEncoder(clip).encode_ids(tokenize(SENTENCES["end"], clip))
    assert (features(clip, learner) - expected).abs().max() < 1e-12


def test_position_changes_features_of_learned_contexts(clip):
    with torch.no_grad():
        end, middle, front = (features(clip, prompts(clip, position=position)) for position in SENTENCES)
    for one, other in ((end, middle), (end, front), (middle, front)):
        assert ((one - other).norm(dim=1) > 0.01 * one.norm(dim=1)).all()


def test_initial_words_set_the_number_of_contexts(clip):
    assert prompts(clip, n_ctx=16, ctx_init="art of").ctx.shape == (2, 64)


def test_class_specific_contexts_start_as_separate_copies_of_the_words(clip):
    shared = prompts(clip, ctx_init="a photo of a")
    own = prompts(clip, ctx_init="a photo of a", class_specific=True)
    words = clip.model.token_embedding(tokenize("a photo of a", clip)[0, 1:5])
    assert torch.equal(shared.ctx, words)
    assert torch.equal(own.ctx, words.expand(3, 4, 64))
    with torch.no_grad():
        own.ctx[1] += 1
    assert torch.equal(own.ctx[0], words)
    assert torch.equal(clip.model.token_embedding(tokenize("a photo of a", clip)[0, 1:5]), words)


def test_gradient_of_a_class_specific_context_is_that_of_its_class(clip):
    learner = prompts(clip, class_specific=True)
    features(clip, learner)[1].sum().backward()
    touched = learner.ctx.grad.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [False, True, False]


def test_unknown_position_is_refused(clip):
    with pytest.raises(ConfigError, match="end, middle, front"):
        prompts(clip, position="back")


@pytest.mark.parametrize("class_specific", [False, True])
def test_loss_falls_on_a_problem_to_overfit(clip, class_specific):
    first, last = losses_of_overfitting(clip, prompts(clip, class_specific=class_specific), len(NAMES))
    assert last < 0.5 * first


def test_order_of_classes_only_permutes_the_features(clip):
    learner, swapped = prompts(clip), prompts(clip, names=NAMES[::-1])
    perturb(learner)
    swapped.load_state_dict(learner.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(features(clip, swapped), features(clip, learner).flip(0), rtol=0, atol=1e-6)


def test_an_evaluation_encodes_the_texts_once(folder, tmp_path):
    trainer = build_trainer(prompt_cfg(folder, tmp_path, "CoOp", "DATALOADER.TEST.BATCH_SIZE", 2))
    seen = []
    trainer.model.text_encoder.ln_final.register_forward_pre_hook(lambda *_: seen.append(1))
    trainer.test()
    assert len(trainer.test_loader) > 2
    assert len(seen) == 1
