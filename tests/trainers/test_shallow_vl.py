"""DAPT's prompts: how many, how they start, where they stand, what they refuse; with DAPT's losses: R10 and effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder
from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.rng import rng_state
from tests.helpers.checkpoints import identical
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.helpers.tiny_clip import tiny_clip
from tests.trainers.problems import losses_of_overfitting, saved, trained_part
from trainers.shallow_vl import ShallowPrompts

NAMES = ["red square", "dog", "very long name"]


def prompts(clip: FrozenCLIP, text: int = 16, vision: int = 16) -> ShallowPrompts:
    torch.manual_seed(0)
    return ShallowPrompts(clip, NAMES, text, vision)


def test_sizes_and_starting_values(clip: FrozenCLIP) -> None:
    learner = prompts(clip)
    assert (learner.txt_ctx.shape, learner.vis_ctx.shape) == ((16, 64), (16, 128))
    assert sum(1 for _ in learner.parameters()) == 2
    assert learner.txt_ctx.std().item() == pytest.approx(0.02, rel=0.1)
    bound = (6 / (3 * 8 * 8 + 128)) ** 0.5
    assert 0.97 * bound < learner.vis_ctx.abs().max().item() <= bound
    assert learner.vis_ctx.mean().abs().item() < 0.05 * bound
    assert learner.vis_ctx.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_visual_tokens_stand_behind_the_first_layer_norm_in_the_first_layer_only(clip: FrozenCLIP) -> None:
    learner, seen = prompts(clip, 4, 4), {}
    visual = clip.model.visual
    hooks = [
        visual.ln_pre.register_forward_pre_hook(lambda _, inputs: seen.__setitem__("norm", inputs[0].shape[1])),
        visual.transformer.resblocks[0].ln_1.register_forward_pre_hook(
            lambda _, inputs: seen.__setitem__("block", inputs[0])
        ),
    ]
    ImageEncoder(clip)(torch.ones(2, 3, 32, 32), learner.image_prompts())
    for hook in hooks:
        hook.remove()
    assert seen["norm"] == 1 + 16
    assert seen["block"].shape == (2, 1 + 16 + 4, 128)
    assert torch.equal(seen["block"][0, -4:], learner.vis_ctx)
    assert learner.image_prompts().deep == learner.text_prompts().deep == ()


def test_a_resnet_is_refused() -> None:
    with pytest.raises(ConfigError, match="visual prompts need a ViT"):
        prompts(tiny_clip(vision_width=8, vision_layers=(1, 1, 1, 1), text_layers=1))


def test_loss_falls_on_a_problem_to_overfit(clip: FrozenCLIP) -> None:
    first, last = losses_of_overfitting(clip, prompts(clip, 4, 4), len(NAMES))
    assert last < 0.5 * first


def two_epochs(folder: Path, output: Path, trainer: str, *options: Any) -> tuple[Any, Any]:
    """The trainer after two epochs, and the generators' states."""
    trained = train(prompt_cfg(folder, output, trainer, "OPTIM.MAX_EPOCH", 2, *options))
    return trained, rng_state()


def test_dapt_without_weights_is_the_plain_trainer_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    """With weights, as positive control: each loss moves its own encoder's prompts, and draws nothing."""
    plain, state = two_epochs(folder, tmp_path / "plain", "ShallowVL")
    none, after = two_epochs(folder, tmp_path / "none", "ShallowVLDAPT", "DAPT.BETA_T", 0.0, "DAPT.BETA_V", 0.0)
    assert identical(after, state)
    assert identical(trained_part(tmp_path / "none"), trained_part(tmp_path / "plain"))
    assert str(none.losses) == str(plain.losses)
    assert none.results == plain.results
    prompts = saved(tmp_path / "plain")["state_dict"]
    for own, other, loss, prompt in (("T", "V", "inter", "txt_ctx"), ("V", "T", "intra", "vis_ctx")):
        options = (f"DAPT.BETA_{own}", 100.0, f"DAPT.BETA_{other}", 0.0)
        trained, after = two_epochs(folder, tmp_path / loss, "ShallowVLDAPT", *options)
        assert identical(after, state)
        assert not torch.equal(saved(tmp_path / loss)["state_dict"][prompt], prompts[prompt])
        assert {name for name in trained.losses.meters if name.startswith("loss_")} == {"loss_reg", f"loss_{loss}"}
