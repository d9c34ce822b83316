"""CoCoOp: the shift by the meta-net, texts encoded once an image, evaluation in bounded memory, refusals."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpt_plugin.encoders import FrozenCLIP, TextEncoder, TextPrompts
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit import build_trainer
from tests.helpers.prompt_runs import prompt_cfg
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import losses_of_overfitting, perturb
from trainers import cocoop
from trainers._prompted import PromptedCLIP
from trainers.cocoop import ConditionalPrompts

NAMES = ["red square", "dog", "very_long name"]
WORDS = ("TRAINER.COCOOP.CTX_INIT", "a photo of a")


def prompts(clip, n_ctx=4, ctx_init="", names=NAMES):
    torch.manual_seed(0)
    return ConditionalPrompts(clip, names, n_ctx, ctx_init)


def images(count, side=32):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_every_context_vector_is_shifted_by_the_meta_net_of_the_image():
    clip = tiny_clip(64, 128, 2, dtype=torch.float64)
    learner = prompts(clip).double()
    perturb(learner)
    image = torch.randn(2, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    context = learner.text_prompts(image).context
    p = dict(learner.named_parameters())
    assert context.shape == (2, 1, 4, 64)
    for b in range(2):
        hidden = (p["meta_net.linear1.weight"] @ image[b] + p["meta_net.linear1.bias"]).clamp(min=0)
        shift = p["meta_net.linear2.weight"] @ hidden + p["meta_net.linear2.bias"]
        for vector in range(4):
            torch.testing.assert_close(context[b, 0, vector], p["ctx"][vector] + shift, rtol=1e-12, atol=1e-14)


def test_logits_are_those_of_each_image_with_its_own_texts():
    clip = tiny_clip(64, 128, 2, dtype=torch.float64)
    learner = prompts(clip).double()
    perturb(learner)
    model = PromptedCLIP(clip, learner)
    batch = images(3).double()
    logits = model(batch)
    features = nn.functional.normalize(model.image_encoder(batch), dim=1)
    for b in range(3):
        context = learner.text_prompts(features[b : b + 1]).context[0, 0]
        text = nn.functional.normalize(TextEncoder(clip)(TextPrompts(learner.tokens, context)), dim=1)
        expected = clip.model.logit_scale.exp() * text @ features[b]
        torch.testing.assert_close(logits[b], expected, rtol=1e-10, atol=1e-10)
    prediction = model(batch, with_features=True)
    assert prediction.text.shape == (3, 3, 32)
    assert (prediction.text[0] - prediction.text[1]).abs().max() > 1e-4, "texts depend on the image"


def test_vit_b16_has_the_published_number_of_parameters():
    """4 x 512 context values, and a meta-net 512 -> 32 -> 512 with biases: 35,360."""
    with torch.device("meta"):
        model = SimpleNamespace(token_embedding=nn.Embedding(49408, 512), logit_scale=torch.zeros(()))
        clip = FrozenCLIP(
            model=model, name="ViT-B/16", digest="", vocabulary=None, text_width=512, vision_width=768, embed_dim=512,
            input_resolution=224, text_layers=12, vision_layers=12,
        )  # fmt: skip
        learner = prompts(clip)
    assert sum(p.numel() for p in learner.parameters()) == 35_360


def test_words_start_the_context(clip):
    learner = prompts(clip, ctx_init="a photo of a")
    assert torch.equal(learner.ctx, learner.tokens.initial_context())
    assert not learner.class_specific
    assert learner.conditional


def test_without_an_image_there_are_no_prompts(clip):
    with pytest.raises(TypeError, match="depend on the image"):
        prompts(clip).text_prompts()


def test_number_of_words_and_of_vectors_must_agree(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"TRAINER\.COCOOP\.N_CTX is 5, but CTX_INIT 'a photo of a' has 4 words"):
        build_trainer(prompt_cfg(folder, tmp_path, "CoCoOp", *WORDS, "TRAINER.COCOOP.N_CTX", 5))


@pytest.mark.parametrize(("budget", "largest"), [(1, 1), (8, 2), (11, 2), (1000, 7)])
def test_evaluation_holds_to_its_budget_of_texts_and_gives_the_same(folder, tmp_path, monkeypatch, budget, largest):
    """4 classes: a budget of 8 texts lets two images through at a time, one below 4 texts a single one."""
    trainer = build_trainer(prompt_cfg(folder, tmp_path, "CoCoOp"))
    perturb(trainer.model.prompt_learner)
    batch = images(7, 16)
    with torch.no_grad():
        expected = trainer.model(batch)
    seen = []
    trainer.model.text_encoder.register_forward_hook(lambda module, args, output: seen.append(output.shape[0]))
    monkeypatch.setattr(cocoop, "EVALUATION_TEXTS", budget)
    with torch.no_grad():
        logits = trainer.model_inference(batch)
    assert max(seen) == largest
    assert sum(seen) == 7
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_loss_falls_on_a_problem_to_overfit(clip):
    first, last = losses_of_overfitting(clip, prompts(clip), len(NAMES))
    assert last < 0.5 * first
