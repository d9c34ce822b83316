"""Frozen CLIP from a state dict: architecture, exactness, no side effects, refusals."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin.encoders import freeze_clip
from cpt_plugin.encoders._package import model_module
from cpt_plugin.errors import CheckpointError, ConfigError
from tests.helpers.tiny_clip import random_state, tiny_clip


def small_state(**changes: object) -> dict[str, torch.Tensor]:
    sizes = {
        "text_width": 64,
        "vision_width": 64,
        "text_layers": 1,
        "vision_layers": 1,
        "embed_dim": 16,
        "resolution": 16,
        "patch": 8,
        "seed": 1,
    }
    return random_state(**{**sizes, **changes})  # type: ignore[arg-type]


def test_vit_sizes_are_read_off_the_shapes() -> None:
    state = small_state(
        text_width=128, vision_width=192, text_layers=3, vision_layers=2, resolution=24, patch=4
    )
    clip = freeze_clip(state, "mine", "digest")
    assert (clip.text_width, clip.vision_width, clip.embed_dim) == (128, 192, 16)
    assert (clip.text_layers, clip.vision_layers, clip.input_resolution) == (3, 2, 24)
    assert clip.is_vit
    assert [block.attn.num_heads for block in clip.model.visual.transformer.resblocks] == [3, 3]
    assert (clip.name, clip.digest, clip.vocabulary) == ("mine", "digest", None)


def test_resnet_sizes_are_read_off_the_shapes() -> None:
    stages = (3, 4, 6, 3)
    clip = freeze_clip(small_state(vision_layers=stages, vision_width=8, resolution=64), "RN", "digest")
    visual = clip.model.visual
    assert (
        tuple(len(stage) for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)) == stages
    )
    assert (clip.vision_width, clip.vision_layers, clip.input_resolution, clip.is_vit) == (8, 0, 64, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_weight_is_rounded(dtype: torch.dtype) -> None:
    state = small_state()
    built = freeze_clip(state, "x", "y", dtype=dtype).model.state_dict()
    assert built.keys() == state.keys()
    for key, value in built.items():
        assert value.dtype == dtype
        assert torch.equal(value, state[key].to(dtype)), key
        assert value.data_ptr() != state[key].data_ptr()


def test_half_precision_keeps_clips_own_layout() -> None:
    state = small_state()
    ours = freeze_clip(state, "x", "y", dtype=torch.float16).model.state_dict()
    theirs = model_module().build_model({key: value.clone() for key, value in state.items()}).state_dict()
    assert {key: value.dtype for key, value in ours.items()} == {
        key: value.dtype for key, value in theirs.items()
    }
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_half_precision_weights_are_widened_for_float32() -> None:
    state = {key: value.to(torch.float16) for key, value in small_state().items()}
    built = freeze_clip(state, "x", "y").model.state_dict()
    assert all(value.dtype == torch.float32 for value in built.values())
    assert all(torch.equal(value, state[key].to(torch.float32)) for key, value in built.items())


def test_frozen_in_eval_mode_and_scalars_of_archives_ignored() -> None:
    state = small_state()
    state |= {
        "input_resolution": torch.tensor(16),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    model = freeze_clip(state, "x", "y").model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_no_random_number_is_drawn() -> None:
    state = small_state()
    before = torch.random.get_rng_state()
    freeze_clip(state, "x", "y")
    tiny_clip(seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_logit_scale_is_the_exponential() -> None:
    state = small_state()
    state["logit_scale"] = torch.tensor(4.6052)
    assert float(freeze_clip(state, "x", "y").logit_scale) == pytest.approx(100.0, abs=0.01)


def test_damaged_state_dicts_are_refused() -> None:
    def without(key: str) -> dict[str, torch.Tensor]:
        return {name: value for name, value in small_state().items() if name != key}

    with pytest.raises(CheckpointError, match=r"not an OpenAI-style CLIP state dict .*text_projection"):
        freeze_clip(without("text_projection"), "x", "y")
    with pytest.raises(CheckpointError, match=r"do not fit .*ln_final\.bias"):
        freeze_clip(without("ln_final.bias"), "x", "y")
    with pytest.raises(CheckpointError, match=r"do not fit .*surplus"):
        freeze_clip({**small_state(), "surplus": torch.zeros(1)}, "x", "y")
    with pytest.raises(CheckpointError, match="context 76 and vocabulary 49408"):
        freeze_clip({**small_state(), "positional_embedding": torch.zeros(76, 64)}, "x", "y")
    with pytest.raises(CheckpointError, match="text transformer of width 80; multiples of 64"):
        freeze_clip({**small_state(), "positional_embedding": torch.zeros(77, 80)}, "x", "y")
    spoiled = small_state()
    spoiled["visual.proj"][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in visual\.proj"):
        freeze_clip(spoiled, "x", "y")


def test_prompt_depths_are_checked_before_training() -> None:
    clip = tiny_clip(text_layers=2, vision_layers=3)
    clip.check_depth(text=2, vision=3)
    with pytest.raises(ConfigError, match=r"text prompt depth 3 is not within 1\.\.2"):
        clip.check_depth(text=3)
    with pytest.raises(ConfigError, match=r"vision prompt depth 4 is not within 1\.\.3"):
        clip.check_depth(vision=4)
    with pytest.raises(ConfigError, match="depth 0"):
        clip.check_depth(text=0)
