"""Transforms by name: shapes, normalisation, randomness, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cpt_plugin.errors import ConfigError
from cpt_plugin.toolkit.embedded.config import get_cfg_default
from cpt_plugin.toolkit.embedded.rng import isolated_rng
from cpt_plugin.toolkit.embedded.transforms import CHOICES, Cutout, build_plain_transform, build_transform

RNG = np.random.default_rng(0)
IMAGE = Image.fromarray(RNG.integers(0, 256, (40, 52, 3)).astype(np.uint8))
RANDOM = [name for name in CHOICES if name not in ("normalize", "instance_norm", "center_crop")]


def cfg(*transforms, size=(16, 16), interpolation="bicubic"):
    node = get_cfg_default()
    node.INPUT.TRANSFORMS, node.INPUT.SIZE, node.INPUT.INTERPOLATION = transforms, size, interpolation
    node.INPUT.GB_K = 5
    node.INPUT.GB_P = node.INPUT.RGS_P = 0.5
    return node


@pytest.mark.parametrize("name", CHOICES)
def test_every_name_gives_an_image_tensor(name):
    out = build_transform(cfg(name))(IMAGE)
    assert out.shape == (3, 16, 16)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", RANDOM)
def test_augmentation_follows_the_global_seed_and_varies(name):
    transform = build_transform(cfg(name))

    def view(seed):
        with isolated_rng(seed):
            return transform(IMAGE)

    assert torch.equal(view(3), view(3))
    assert len({view(seed).numpy().tobytes() for seed in range(12)}) > 1


def test_test_transform_resizes_the_short_edge_and_crops_the_centre():
    out = build_transform(cfg("random_flip"), is_train=False)(IMAGE)
    width = round(16 * 52 / 40)
    left = round((width - 16) / 2)
    resized = (
        np.asarray(IMAGE.resize((int(16 * 52 / 40), 16), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    )
    assert np.allclose(out.numpy().transpose(1, 2, 0), resized[:, left : left + 16], atol=1e-6)


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation():
    plain = build_transform(cfg(), is_train=False)(IMAGE).double().numpy()
    scaled = build_transform(cfg("normalize"), is_train=False)(IMAGE).double().numpy()
    mean, std = get_cfg_default().INPUT.PIXEL_MEAN, get_cfg_default().INPUT.PIXEL_STD
    for channel in range(3):
        assert np.allclose(scaled[channel], (plain[channel] - mean[channel]) / std[channel], atol=1e-5)


def test_crop_scale_limits_the_area_that_is_kept():
    gradient = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], (1, 60, 3)))

    def spans(scale):
        node = cfg("random_resized_crop")
        node.INPUT.RRCROP_SCALE = scale
        for seed in range(20):
            with isolated_rng(seed):
                out = build_transform(node)(gradient)
            yield float(out.max() - out.min())

    whole = 236 / 255
    assert min(spans((0.9, 1.0))) > 0.7 * whole
    assert max(spans((0.01, 0.04))) < 0.3 * whole


def test_interpolation_is_obeyed():
    views = [build_transform(cfg(interpolation=m), False)(IMAGE) for m in ("bilinear", "bicubic", "nearest")]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])


def test_cutout_clears_at_most_its_square():
    with isolated_rng(1):
        out = Cutout(1, 4)(torch.ones(3, 16, 16))
    cleared = int((out[0] == 0).sum())
    assert 4 <= cleared <= 16


def test_plain_transform_has_no_randomness():
    transform = build_plain_transform(cfg("random_flip", "random_resized_crop", "normalize"))
    assert torch.equal(transform(IMAGE), transform(IMAGE))


def test_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="randaugment"):
        build_transform(cfg("randaugment"))
