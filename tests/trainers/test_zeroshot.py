"""Zero-shot CLIP: fixed text features, and CoOp's starting point."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cpt_plugin import toolkit
from cpt_plugin.errors import ConfigError
from tests.helpers.prompt_runs import prompt_cfg


def build(folder, output, name, *options):
    toolkit.set_random_seed(1)
    return toolkit.build_trainer(prompt_cfg(folder, output, name, *options))


def test_logits_are_scaled_cosines_with_the_template(folder, tmp_path):
    trainer = build(folder, tmp_path, "ZeroshotCLIP")
    clip = trainer.clip.model
    image = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        f = F.normalize(clip.encode_image(image), dim=1)
        g = F.normalize(trainer.frozen_text_features(), dim=1)
        torch.testing.assert_close(trainer.model_inference(image), clip.logit_scale.exp() * f @ g.T)


def test_is_where_coop_with_the_template_s_words_starts(folder, tmp_path):
    """CTX_INIT "a photo of a" and the template "a photo of a {}." are the same sentences."""
    zeroshot = build(folder, tmp_path / "z", "ZeroshotCLIP")
    words = ("TRAINER.COOP.CTX_INIT", "a photo of a", "TRAINER.COOP.N_CTX", 4)
    coop = build(folder, tmp_path / "c", "CoOp", *words)
    image = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = coop.model_inference(image) - zeroshot.model_inference(image)
        text = coop.model.text_encoder(coop.model.prompt_learner.text_prompts())
    assert difference.abs().max() < 1e-4
    assert (F.normalize(text, dim=1) - F.normalize(zeroshot.frozen_text_features(), dim=1)).abs().max() < 1e-6
    assert coop.test() == zeroshot.test()


def test_training_only_evaluates(folder, tmp_path):
    trainer = build(folder, tmp_path, "ZeroshotCLIP")
    trainer.train()
    assert trainer.results["accuracy"] >= 0
    assert not any(tmp_path.rglob("model.pth.tar*"))


def test_template_of_a_regularizer_does_not_change_the_baseline(folder, tmp_path):
    own, other = (build(folder, tmp_path, "ZeroshotCLIP", "CPT.TEMPLATE", t) for t in ("", "a drawing of a {}."))
    assert torch.equal(own.model.text, other.model.text)
    expected = F.normalize(own.frozen_text_features("a photo of a {}."), dim=1)
    assert torch.equal(own.model.text, expected)
    assert not torch.equal(own.frozen_text_features(), own.frozen_text_features("a drawing of a {}."))


def test_prompts_to_start_from_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no prompts to load MODEL\.INIT_WEIGHTS"):
        build(folder, tmp_path, "ZeroshotCLIP", "MODEL.INIT_WEIGHTS", "x")
