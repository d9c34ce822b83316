"""open_clip's models in the prompted encoders: the oracle is open_clip itself, on random weights of small shapes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from cpt_plugin._hashing import sha256_of
from cpt_plugin.backbones import OpenClipName, open_clip_name
from cpt_plugin.encoders import (
    ClassTokens,
    ImageEncoder,
    TextEncoder,
    TextPrompts,
    freeze_clip,
    load_clip,
    open_clip_weights,
    sizes_of,
    tokenize,
)
from cpt_plugin.encoders._architecture import Traits
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from tests.encoders.test_openai_archive import relative
from tests.helpers.tiny_clip import random_state

TEXTS = ["a photo of a cat.", "two dogs in the park", "x"]
PRETRAINED = "laion2b_s34b_b88k"


def config(**changes: Any) -> dict[str, Any]:
    """A small model of open_clip; changes of the towers go by "vision" and "text"."""
    vision = {"layers": 2, "width": 128, "patch_size": 16, "image_size": 48}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    vision, text = vision | changes.pop("vision", {}), text | changes.pop("text", {})
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **changes}


CONFIGS = {
    "small-gelu": config(),
    "small-quickgelu": config(quick_gelu=True),
    # ViT-H's heads of 80, bigG's of 104 with MLPs of 4.9231 widths, text heads of 40
    "small-heads": config(
        vision={"width": 240, "head_width": 80}, text={"width": 120, "heads": 3}, nonscalar_logit_scale=True
    ),
    "small-mlp": config(vision={"width": 208, "head_width": 104, "mlp_ratio": 4.9231}, text={"mlp_ratio": 3.0}),
    "small-resnet": config(vision={"layers": [2, 1, 1, 2], "width": 16, "image_size": 64}, quick_gelu=True),
    "bad-siglip": config(init_logit_bias=-10.0, text={"no_causal_mask": True}),
    "bad-context": config(text={"context_length": 64}),
    "bad-vocabulary": config(text={"vocab_size": 32000, "hf_tokenizer_name": "somebody/tokenizer"}),
    "bad-pool": config(text={"pool_type": "last"}),
    "bad-timm": config(vision={"timm_model_name": "vit_base_patch16_224"}),
    "bad-bert": config(text={"hf_model_name": "roberta-base"}),
    "bad-coca": config(multimodal_cfg={"width": 64}, custom_text=True),
    "bad-scale": config(vision={"ls_init_value": 0.1}),
    "bad-norm": config(text={"norm_kwargs": {"eps": 1e-6}}),
    "bad-square": config(vision={"image_size": [48, 64]}),
    "bad-resnet": config(vision={"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": 64}),
}
SERVED = [name for name in CONFIGS if name.startswith("small")]
REFUSED = {
    "bad-siglip": "bias",
    "bad-context": "77 tokens",
    "bad-vocabulary": "vocabulary|tokenizer",
    "bad-pool": "end token",
    "bad-timm": "timm",
    "bad-bert": "transformers",
    "bad-coca": "CoCa",
    "bad-scale": r"vision_cfg\.ls_init_value",
    "bad-norm": r"text_cfg\.norm_kwargs",
    "bad-square": "square",
    "bad-resnet": "heads of its ResNet",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """open_clip with our small models among its own."""
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open-clip-torch, an optional package, is not installed")
    module = open_clip_weights._package()
    folder = tmp_path_factory.mktemp("open_clip")
    for name, content in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    module.add_model_config(folder)
    return module


def random_model(package: Any, name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = package.create_model(name, pretrained=None, precision="fp32", device="cpu").eval()
        for key, value in model.named_parameters():
            if value.ndim == 1 and "logit" not in key:
                value.data += 0.2 * torch.rand_like(value)  # no bias is 0, no norm the identity
            elif value.ndim == 4 and "resnet" in name:
                torch.nn.init.kaiming_normal_(value)
    return model


def saved(model: Any, path: Path) -> Path:
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 32}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", SERVED)
def test_features_are_open_clips(package: Any, name: str, suffix: str, tmp_path: Path) -> None:
    model = random_model(package, name)
    path = saved(model, tmp_path / f"weights{suffix}")
    clip = load_clip(f"open_clip:{name}/{path}")
    images = torch.randn(3, 3, clip.input_resolution, clip.input_resolution, generator=torch.Generator().manual_seed(0))
    ids = tokenize(TEXTS, clip)
    with torch.no_grad():
        image, text = model.encode_image(images), model.encode_text(ids)
        assert torch.equal(ids, package.get_tokenizer("ViT-B-16")(TEXTS)), "the same tokens"
        assert relative(ImageEncoder(clip)(images), image) < 1e-5
        for way in ("auto", "truncated", "reference"):
            assert relative(TextEncoder(clip, path=way).encode_ids(ids), text) < 1e-5, way
        assert relative(image[:1], image[1:2]) > 1e-2, "images are told apart"
        torch.testing.assert_close(clip.logit_scale, model.logit_scale.exp().reshape(()))
    assert clip.pixel_mean == package.constants.OPENAI_DATASET_MEAN
    told = sizes_of(f"open_clip:{name}/{path}")
    for part in ("name", "input_resolution", "text_layers", "vision_layers", "pixel_mean", "pixel_std"):
        assert getattr(told, part) == getattr(clip, part)


def test_the_activation_matters(package: Any, tmp_path: Path) -> None:
    """The same weights with the other activation give other features, so the test above could fail."""
    path = saved(random_model(package, "small-gelu"), tmp_path / "weights.pt")
    exact, quick = (load_clip(f"open_clip:small-{kind}/{path}") for kind in ("gelu", "quickgelu"))
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert relative(ImageEncoder(exact)(images), ImageEncoder(quick)(images)) > 1e-3
    assert quick.digest == sha256_of(path)
    assert exact.digest != quick.digest, "prompts and cached features of one are not taken for those of the other"


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_encoders_cannot_represent_is_refused_with_the_reason(package: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot represent open_clip's {name}: .*({REFUSED[name]})") as caught:
        sizes_of(f"open_clip:{name}/tag")
    assert "\n" not in str(caught.value)


def test_published_models_are_served_or_refused_as_they_should_be(package: Any) -> None:
    def outcome(name: str) -> str:
        try:
            sizes = sizes_of(f"open_clip:{name}")
        except ConfigError as error:
            return str(error)
        return f"{sizes.input_resolution} {sizes.text_layers} {sizes.vision_layers}"

    assert outcome("ViT-B-16/laion2b_s34b_b88k") == "224 12 12"
    assert outcome("ViT-B-16-quickgelu/openai") == "224 12 12"
    assert outcome("ViT-H-14/laion2b_s32b_b79k") == "224 24 32"
    assert outcome("ViT-bigG-14/laion2b_s39b_b160k") == "224 32 48"
    assert outcome("RN50x4-quickgelu/openai") == "288 12 0"
    assert "ViT-B-16-quickgelu/openai" in outcome("ViT-B-16/openai"), "they were trained with QuickGELU"
    assert "SigLIP" in outcome("ViT-B-16-SigLIP/webli")
    assert "CoCa" in outcome("coca_ViT-B-32/laion2b_s13b_b90k")
    assert "no model 'ViT-B-17'; nearest: 'ViT-B-16'" in outcome("ViT-B-17/laion2b_s34b_b88k")
    assert f"nearest: '{PRETRAINED}'" in outcome("ViT-B-16/laion2b_s34b_b88")


def test_normalization_of_the_weights_is_told(package: Any) -> None:
    """This one was trained with means and deviations of 0.5 (open_clip's table)."""
    sizes = sizes_of("open_clip:ViT-L-14/laion2b_s32b_b82k")
    assert (sizes.pixel_mean, sizes.pixel_std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_weights_of_another_model_are_refused(package: Any, tmp_path: Path) -> None:
    path = saved(random_model(package, "small-gelu"), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"no weights of open_clip's ViT-B-16: .*vision_width 128, not 768"):
        load_clip(f"open_clip:ViT-B-16/{path}")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"weights\.pt is damaged"):
        load_clip(f"open_clip:small-gelu/{path}")


def test_published_weights_come_from_open_clips_cache_or_download(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub's cache layout, made by hand, so that nothing is asked of the network."""
    model = random_model(package, "small-gelu")
    hub = {"hf_hub": "somebody/small/", "mean": None, "std": None}
    monkeypatch.setattr(package.pretrained, "get_pretrained_cfg", lambda model, tag: hub if tag == "mine" else {})
    asked = []

    def download(published: Any, cache_dir: Any = None) -> str:
        asked.append(cache_dir)
        if len(asked) == 1:
            raise OSError("no route\nto host")
        return str(saved(model, tmp_path / "fetched.safetensors"))

    monkeypatch.setattr(package.pretrained, "download_pretrained", download)
    answers: dict[str, str] = {"huggingface.co": "name not found"}
    monkeypatch.setattr(open_clip_weights, "silent", lambda addresses: answers)
    root = tmp_path / "hub"
    name = "open_clip:small-gelu/mine"
    with pytest.raises(DataError, match=r"are not there\n +address: +https://huggingface\.co/somebody/small\n"):
        load_clip(name, root=root)
    with pytest.raises(DataError, match=r"cannot be downloaded now \(huggingface\.co: name not found\)\n"):
        load_clip(name, root=root, download=True)
    assert asked == [], "a host that does not answer is not tried for minutes"
    answers.clear()
    with pytest.raises(DataError, match=r"could not be downloaded \(OSError: no route to host\)\n"):
        load_clip(name, root=root, download=True)
    fetched = load_clip(name, root=root, download=True)
    snapshot = root / "models--somebody--small" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (root / "models--somebody--small" / "refs").mkdir()
    (root / "models--somebody--small" / "refs" / "main").write_text("0")
    saved(model, snapshot / "open_clip_model.safetensors")
    assert load_clip(name, root=root).digest == fetched.digest
    assert asked == [str(root), str(root)]


def test_without_the_package_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    open_clip_weights._package.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"-m pip install -c constraints\.txt open-clip-torch"):
            open_clip_weights._package()
    finally:
        open_clip_weights._package.cache_clear()


def test_an_installation_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find("json" if name == "open_clip" else name))
    monkeypatch.setitem(sys.modules, "open_clip", None)
    open_clip_weights._package.cache_clear()
    try:
        with pytest.raises(ConfigError, match="cannot be imported"):
            open_clip_weights._package()
    finally:
        open_clip_weights._package.cache_clear()


@pytest.mark.parametrize(("activation", "head"), [("gelu", 64), ("gelu", 32), ("quick_gelu", 16)])
def test_fast_text_path_equals_the_reference_in_float64(activation: str, head: int) -> None:
    """Features and gradients of contexts and deep prompts; also CoCoOp's, which depend on the image."""
    state: dict[str, Tensor] = random_state(
        text_width=64, vision_width=64, text_layers=3, vision_layers=1, embed_dim=16, resolution=16, patch=8, seed=4
    )
    traits = Traits(activation=activation, text_head_width=head)
    clip = freeze_clip(state, "x", "", dtype=torch.float64, traits=traits)
    tokens = ClassTokens.build(clip, ["cat", "annual crop land", "dog"], 2, "a photo of a")
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 64), (2, 1, 2, 64)):
        results = []
        context = torch.randn(*shape, generator=generator, dtype=torch.float64)
        deep = torch.randn(2, 64, generator=generator, dtype=torch.float64)
        for path in ("auto", "reference"):
            leaves = [context.clone().requires_grad_(), deep.clone().requires_grad_()]
            features = TextEncoder(clip, path=path)(TextPrompts(tokens, leaves[0], (leaves[1],)))
            gradients = torch.autograd.grad(features.sin().sum(), leaves)
            results.append((features.detach(), *gradients))
        for fast, reference in zip(*results, strict=True):
            torch.testing.assert_close(fast, reference, rtol=1e-11, atol=1e-12)


@given(model=st.text("aB-1_", min_size=1), weights=st.text("a/.-:", min_size=1))
def test_names_are_taken_apart(model: str, weights: str) -> None:
    assert open_clip_name(f"open_clip:{model}/{weights}") == OpenClipName(model, weights)
    assert open_clip_name(model) is None
    assert OpenClipName("M", "tag").file is None
    assert OpenClipName("M", "/x/y.bin").file == Path("/x/y.bin")
