"""Files in OpenAI's layouts give the features of the `clip` package: the oracle is its own code on its own model.

Weights are random; the first model has the full shapes of ViT-B/16 (150 million parameters, half precision).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cpt_plugin import openai_weights
from cpt_plugin.encoders import FrozenCLIP, ImageEncoder, TextEncoder, load_clip, sizes_of, tokenize
from tests.helpers.archives import clip_of_shape, write_torchscript

TEXTS = ["a photo of a cat.", "a centered satellite photo of Annual Crop Land.", "x"]
SHAPES = {
    "ViT-B/16": {"text_width": 512, "vision_width": 768, "text_layers": 12, "vision_layers": 12, "embed_dim": 512,
                 "resolution": 224, "patch": 16},
    "small ViT": {"text_width": 128, "vision_width": 192, "text_layers": 3, "vision_layers": 2, "embed_dim": 48,
                  "resolution": 48, "patch": 16},
    "small ResNet": {"text_width": 128, "vision_width": 16, "text_layers": 2, "vision_layers": (2, 1, 3, 1),
                     "embed_dim": 48, "resolution": 96, "patch": None},
}  # fmt: skip
WRITERS: dict[str, Callable[[Path, dict[str, Tensor], int], object]] = {
    "archive.pt": write_torchscript,
    "plain.pt": lambda path, state, resolution: torch.save(state, path),
    "nested.pth": lambda path, state, resolution: torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path
    ),
    "weights.safetensors": lambda path, state, resolution: save_file(
        {key: value.contiguous() for key, value in state.items()}, path
    ),
}


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest error of a row of features, by its length."""
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


def features(clip: FrozenCLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return ImageEncoder(clip)(images), TextEncoder(clip).encode_ids(tokenize(TEXTS, clip))


Model = tuple[nn.Module, dict[str, Tensor], int, list[str]]


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest) -> Model:
    """A model of the `clip` package, its half-precision state, its resolution, and the layouts to try."""
    shape = SHAPES[request.param]
    made = clip_of_shape(**shape)  # type: ignore[arg-type]
    state = {key: value.clone() for key, value in made.state_dict().items()}
    layouts = ["archive.pt", "plain.pt"] if request.param == "ViT-B/16" else [*WRITERS]  # the large one takes seconds
    return made.float(), state, shape["resolution"], layouts  # type: ignore[misc]


def test_every_layout_gives_the_features_of_the_clip_package(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, state, resolution, layouts = model
    images = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image = theirs.encode_image(images)
        text = theirs.encode_text(tokenize(TEXTS, load_clip("micro", unknown_words="zero")))
    for name in layouts:
        path = tmp_path / name
        WRITERS[name](path, state, resolution)
        if name == "archive.pt":  # known by its hash, as OpenAI's are, so no trust is needed
            monkeypatch.setitem(openai_weights.SHA256, "RN50", hashlib.sha256(path.read_bytes()).hexdigest())
        clip = load_clip(str(path), precision="fp16")
        assert clip.dtype == torch.float32, "half precision on a CPU runs in float32"
        ours = features(clip, images)
        assert relative(ours[0], image) < 1e-5, name
        assert relative(ours[1], text) < 1e-5, name
        path.unlink()
    assert relative(image[:1], image[1:]) > 1e-2, "images are told apart"


@pytest.mark.parametrize("layout", [name for name in WRITERS if name != "archive.pt"])
@pytest.mark.parametrize("shape", ["small ViT", "small ResNet"])
def test_sizes_are_told_without_the_values(shape: str, layout: str, tmp_path: Path) -> None:
    made = clip_of_shape(**SHAPES[shape])  # type: ignore[arg-type]
    path = tmp_path / layout
    WRITERS[layout](path, made.state_dict(), SHAPES[shape]["resolution"])  # type: ignore[arg-type]
    told, clip = sizes_of(str(path)), load_clip(str(path))
    for name in ("name", "input_resolution", "text_layers", "vision_layers", "is_vit"):
        assert getattr(told, name) == getattr(clip, name)
    assert told.is_vit == (shape == "small ViT")


def test_sizes_of_openais_models_are_known_by_name_and_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path / "nowhere")
    names = openai_weights.SHA256
    resolutions = [224, 224, 288, 384, 448, 224, 224, 224, 336]
    assert [sizes_of(name).input_resolution for name in names] == resolutions
    assert [name for name in names if sizes_of(name).is_vit] == [name for name in names if name.startswith("ViT")]
    assert (sizes_of("ViT-L/14").text_layers, sizes_of("ViT-L/14").vision_layers) == (12, 24)
    assert (sizes_of("micro").input_resolution, sizes_of("micro").is_vit) == (32, True)
    path = tmp_path / "renamed.pt"
    write_torchscript(path, {"a": torch.zeros(1)}, 7)
    monkeypatch.setitem(openai_weights.SHA256, "RN50x64", hashlib.sha256(path.read_bytes()).hexdigest())
    assert sizes_of(str(path)).input_resolution == 448
