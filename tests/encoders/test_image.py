"""Prompted vision tower: against CLIP's own encode_image and a NumPy oracle."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, ImagePrompts
from cpt_plugin.errors import ConfigError, FeatureError
from tests.helpers.numpy_clip import numpy_state, run_image
from tests.helpers.tiny_clip import tiny_clip

EXACT = 1e-12


@cache
def vit64(width: int = 64, layers: int = 3, patch: int = 8) -> FrozenCLIP:
    return tiny_clip(
        vision_width=width,
        vision_layers=layers,
        text_layers=1,
        resolution=16,
        patch=patch,
        dtype=torch.float64,
    )


@cache
def resnet64() -> FrozenCLIP:
    return tiny_clip(vision_width=8, vision_layers=(1, 2, 1, 1), text_layers=1, dtype=torch.float64)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("make", [vit64, resnet64])
def test_without_prompts_equals_clips_own_encode_image(make: object) -> None:
    clip = make()  # type: ignore[operator]
    images = draw(3, 3, clip.input_resolution, clip.input_resolution, seed=0)
    assert relative(ImageEncoder(clip)(images), clip.model.encode_image(images)) <= EXACT


@settings(max_examples=25, deadline=None)
@given(
    width=st.sampled_from([64, 128]),
    layers=st.integers(1, 4),
    patch=st.sampled_from([4, 8]),
    n_prompts=st.integers(0, 3),
    depth=st.integers(1, 4),
    seed=st.integers(0, 999),
    after_norm=st.booleans(),
)
def test_features_equal_the_numpy_oracle(
    width: int, layers: int, patch: int, n_prompts: int, depth: int, seed: int, after_norm: bool
) -> None:
    clip = vit64(width, layers, patch)
    images = draw(2, 3, 16, 16, seed=seed)
    prompts = None
    if n_prompts:
        deep = tuple(draw(n_prompts, width, seed=seed + i) for i in range(1, min(depth, layers)))
        prompts = ImagePrompts(draw(n_prompts, width, seed=seed), deep, after_norm)
    state = numpy_state(clip.model)
    shallow = None if prompts is None else prompts.shallow.numpy()
    later = [] if prompts is None else [prompt.numpy() for prompt in prompts.deep]
    expected = np.stack([run_image(state, image, shallow, later, after_norm) for image in images.numpy()])
    assert relative(ImageEncoder(clip)(images, prompts), torch.from_numpy(expected)) <= EXACT


def test_gradcheck_of_prompts_and_pixels() -> None:
    clip = vit64(layers=2)
    encoder = ImageEncoder(clip)
    inputs = tuple(draw(*shape, seed=1).requires_grad_() for shape in ((2, 3, 16, 16), (2, 64), (2, 64)))
    assert torch.autograd.gradcheck(
        lambda image, shallow, deep: encoder(image, ImagePrompts(shallow, (deep,))), inputs, fast_mode=True
    )


def test_images_do_not_influence_one_another() -> None:
    clip = vit64()
    images, prompts = draw(3, 3, 16, 16, seed=2), ImagePrompts(draw(2, 64, seed=3), (draw(2, 64, seed=4),))
    encoder = ImageEncoder(clip)
    alone = torch.cat([encoder(image[None], prompts) for image in images])
    assert relative(encoder(images, prompts), alone) <= EXACT


def test_encoder_is_frozen_and_stays_in_eval_mode() -> None:
    encoder = ImageEncoder(resnet64())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()
    encoder(draw(4, 3, 32, 32, seed=5))
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_half_weights_take_float32_prompts_and_images() -> None:
    half, full = tiny_clip(dtype=torch.float16), tiny_clip()
    images = draw(2, 3, 32, 32, seed=6).to(torch.float32)
    prompts = ImagePrompts(draw(2, 64, seed=7).to(torch.float32).requires_grad_())
    features = ImageEncoder(half)(images, prompts)
    assert features.dtype == torch.float16
    assert relative(features.float(), ImageEncoder(full)(images, prompts)) < 1e-2
    features.float().sum().backward()
    assert prompts.shallow.grad is not None
    assert prompts.shallow.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 3, 16, 24), (1, 3, 32, 32), (1, 1, 16, 16)])
def test_wrong_image_sizes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureError) as caught:
        ImageEncoder(vit64())(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "(batch, 3, 16, 16)" in str(caught.value)


def test_wrong_prompts_are_refused() -> None:
    clip = vit64(layers=2)
    encoder, image, good = ImageEncoder(clip), torch.zeros(1, 3, 16, 16), torch.zeros(2, 64)
    with pytest.raises(ConfigError, match="ResNet"):
        ImageEncoder(resnet64())(torch.zeros(1, 3, 32, 32), ImagePrompts(torch.zeros(2, 8)))
    with pytest.raises(ConfigError, match="depth 3 exceeds the 2 blocks"):
        encoder(image, ImagePrompts(good, (good, good)))
    with pytest.raises(FeatureError, match="width 128; the vision tower's is 64"):
        encoder(image, ImagePrompts(torch.zeros(2, 128)))
    with pytest.raises(FeatureError, match=r"layer 2 has shape \(3, 64\)"):
        ImagePrompts(good, (torch.zeros(3, 64),))
    for bad in (torch.zeros(0, 64), torch.zeros(64), torch.zeros(1, 2, 64)):
        with pytest.raises(FeatureError, match=r"expected \(tokens >= 1, width\)"):
            ImagePrompts(bad)


def test_features_in_the_place_of_images_are_passed_on() -> None:
    clip = vit64()
    encoder = ImageEncoder(clip)
    features = encoder(draw(3, 3, 16, 16, seed=0))
    assert encoder(features) is features
    with pytest.raises(FeatureError, match=r"features \(batch, 32\)"):
        encoder(features[:, 1:])
    with pytest.raises(FeatureError, match="images have shape"):
        encoder(features, ImagePrompts(draw(1, 64, seed=1)))
