"""Where weights are found, and which files are refused."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cpt_plugin import openai_weights
from cpt_plugin.encoders import available_models, load, load_clip, tokenize
from cpt_plugin.errors import CheckpointError, ConfigError, DataError
from tests.helpers.tiny_clip import random_state, tiny_clip


@cache
def state() -> dict[str, torch.Tensor]:
    return random_state(
        text_width=64,
        vision_width=64,
        text_layers=1,
        vision_layers=1,
        embed_dim=16,
        resolution=16,
        patch=8,
        seed=2,
    )


def write_npz(folder: Path, ids: list[int]) -> Path:
    """A file in the layout of assets/README.md."""
    arrays: dict[str, Any] = {key: value.numpy().astype(np.float16) for key, value in state().items()}
    table = arrays.pop("token_embedding.weight")
    arrays["token_embedding.rows"] = table[ids]
    arrays["token_embedding.ids"] = np.array(ids, dtype=np.int32)
    arrays["token_embedding.vocab_size"] = np.array(49408, dtype=np.int32)
    path = folder / "small.npz"
    np.savez_compressed(path, **arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"npz_sha256": digest}))
    return path


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of ~/.cache/clip."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(openai_weights, "CACHE", folder)
    return folder


def test_plain_state_dict_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(state(), path)
    clip = load_clip(str(path))
    assert clip.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(torch.equal(value, state()[key]) for key, value in clip.model.state_dict().items())
    torch.save({"state_dict": state(), "epoch": 3}, path)
    assert load_clip(str(path)).embed_dim == 16


def test_half_precision_request_on_a_cpu_runs_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({key: value.to(torch.float16) for key, value in state().items()}, path)
    assert load_clip(str(path), precision="fp16").dtype == torch.float32


def test_npz_restores_weights_and_vocabulary(tmp_path: Path) -> None:
    ids = [269, 320, 2368, 49406, 49407]
    clip = load_clip(str(write_npz(tmp_path, ids)))
    assert clip.vocabulary == frozenset(ids)
    for key, value in clip.model.state_dict().items():
        expected = state()[key].to(torch.float16).to(torch.float32)
        if key == "token_embedding.weight":
            assert torch.equal(value[ids], expected[ids])
            assert float(value.abs().sum()) == pytest.approx(float(expected[ids].abs().sum()))
        else:
            assert torch.equal(value, expected)
    assert tokenize("a cat.", clip).tolist()[0][:5] == [49406, 320, 2368, 269, 49407]
    with pytest.raises(ConfigError, match="words dog"):
        tokenize("a dog.", clip)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, [269, 320])
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 4
    path.write_bytes(payload)
    with pytest.raises(CheckpointError, match=r"small\.npz is damaged: SHA-256 is .*; restore the file"):
        load_clip(str(path))
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="does not give the npz_sha256"):
        load_clip(str(path))


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, weights=np.zeros(3))
    path.with_suffix(".json").write_text(
        json.dumps({"npz_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    )
    with pytest.raises(CheckpointError, match=r"cannot be read as CLIP weights .*token_embedding\.rows"):
        load_clip(str(path))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(canary),)

    path = tmp_path / "bad.pt"
    torch.save({"weights": Malicious()}, path)
    with pytest.raises(CheckpointError, match="not a plain state dict, and was not loaded"):
        load_clip(str(path))
    assert not canary.exists()


def test_files_without_a_state_dict_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content in ([1, 2], {"a": 1}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="does not hold a state dict"):
            load_clip(str(path))
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="was not loaded"):
        load_clip(str(path))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript archive of a tiny CLIP, as OpenAI's files are."""
    clip = tiny_clip(layers=1, embed_dim=16, resolution=16)
    inputs = (torch.zeros(1, 3, 16, 16), tokenize("a cat", clip))
    path = tmp_path_factory.mktemp("archive") / "ViT-B-16.pt"
    torch.jit.trace(clip.model, inputs, check_trace=False).save(path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_archives_are_read_only_when_known(
    archive: Path, no_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"none of OpenAI's .*give --trust-weights .*torch\.save"):
        load_clip(str(archive))
    with pytest.raises(
        CheckpointError, match=r"is not OpenAI's ViT-B/16: SHA-256 is .*delete it and fetch https://"
    ):
        load_clip("ViT-B/16", root=archive.parent)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(openai_weights.SHA256, "ViT-B/16", digest)
    for clip in (load_clip("ViT-B/16", root=archive.parent), load_clip(str(archive))):
        assert (clip.digest, clip.embed_dim) == (digest, 16)
    (no_cache / archive.name).write_bytes(archive.read_bytes())
    assert load_clip("ViT-B/16", root=tmp_path / "nowhere").digest == digest


def test_absent_openai_weights_say_what_to_put_where(no_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_clip("ViT-L/14@336px", root=tmp_path)
    message = str(caught.value)
    assert "https://openaipublic.azureedge.net/clip/models/3035c92b35" in message
    assert str(tmp_path / "ViT-L-14-336px.pt") in message
    assert str(no_cache / "ViT-L-14-336px.pt") in message


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError, match="unknown backbone 'ViT-B16'; nearest: 'ViT-B/16'; possible: micro"
    ):
        load_clip("ViT-B16")
    with pytest.raises(DataError, match=r"weights file nowhere\.pt does not exist"):
        load_clip("nowhere.pt")
    with pytest.raises(ConfigError, match="precision 'half' is unknown"):
        load_clip("micro", precision="half")


def test_available_models_and_hashes() -> None:
    assert {"micro", "ViT-B/16", "ViT-B/32", "ViT-L/14", "RN50"} <= set(available_models())
    assert all(len(digest) == 64 for digest in openai_weights.SHA256.values())
    assert len(set(openai_weights.SHA256.values())) == len(openai_weights.SHA256)


def test_missing_micro_model_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ASSETS", tmp_path)
    with pytest.raises(DataError, match=r"micro_clip\.npz is missing"):
        load_clip("micro")


@pytest.mark.skipif(
    not (load.ASSETS / "micro_clip.npz").is_file(), reason="the micro CLIP has not been made yet"
)
def test_micro_model_loads() -> None:
    clip = load_clip("micro")
    assert clip.vocabulary is not None
    assert {49406, 49407} <= clip.vocabulary
    assert clip.is_vit
    assert tokenize("a photo of a red circle.", clip).shape == (1, 77)
