"""Which files are refused, and that nothing in a file is run or believed before it is checked."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from cpt_plugin import openai_weights
from cpt_plugin._hashing import sha256_of
from cpt_plugin.encoders import load_clip, sizes_of
from cpt_plugin.encoders.weights_file import is_torchscript, read_shapes, read_state
from cpt_plugin.errors import CheckpointError, CPTError, DataError
from tests.helpers.archives import write_torchscript
from tests.helpers.tiny_clip import random_state


@cache
def state() -> dict[str, Tensor]:
    return random_state(
        text_width=64, vision_width=64, text_layers=1, vision_layers=1, embed_dim=16, resolution=16, patch=8, seed=2
    )


SMALL = {"visual.a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2])}


def written(folder: Path, kind: str) -> Path:
    path = folder / f"small.{kind}"
    if kind == "safetensors":
        save_file(SMALL, path)
    elif kind == "torchscript":
        write_torchscript(path, SMALL, 8)
    else:
        torch.save(SMALL, path)
    return path


KINDS = ("pt", "safetensors", "torchscript")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_written(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    read, vocabulary = read_state(path, sha256_of(path), trust=True)
    assert vocabulary is None
    assert all(torch.equal(read[key], value) for key, value in SMALL.items())
    assert is_torchscript(path) == (kind == "torchscript")
    if kind != "torchscript":
        shapes = read_shapes(path)
        assert {key: tuple(value.shape) for key, value in shapes.items()} == {"visual.a": (3, 4), "b": (2,)}
        assert all(value.is_meta for value in shapes.values())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_by_name(kind: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / f"small.{kind}"
    whole = path.with_name(f"whole.{kind}")
    if not whole.is_file():
        written(tmp_path, kind).rename(whole)
    path.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    with pytest.raises(CheckpointError, match=path.name):
        read_state(path, sha256_of(path), trust=True)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_weights_or_an_error_of_ours(kind: str, place: float, bit: int, tmp_path: Path) -> None:
    """Without a published hash a flipped bit of a value cannot be told; one of the layout is no bare traceback."""
    path = tmp_path / f"small.{kind}"
    content = bytearray(written(tmp_path, kind).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    message = path.name
    try:
        read_state(path, sha256_of(path), trust=True)
    except CPTError as error:
        message = str(error)
    assert path.name in message


def test_one_changed_byte_of_a_named_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_weights, "CACHE", tmp_path)
    path = write_torchscript(tmp_path / "ViT-B-16.pt", state(), 16)
    monkeypatch.setitem(openai_weights.SHA256, "ViT-B/16", sha256_of(path))
    assert load_clip("ViT-B/16").embed_dim == 16
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for trust in (False, True):
        with pytest.raises(CheckpointError, match=r"is not OpenAI's ViT-B/16: SHA-256 is .*delete it and fetch"):
            load_clip("ViT-B/16", trust=trust)


def test_torchscript_needs_trust(tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "own.pt", state(), 16)
    for refused in (load_clip, sizes_of):
        with pytest.raises(CheckpointError, match=r"can hold code.*--trust-weights \(MODEL\.BACKBONE\.TRUST True\)"):
            refused(str(path))
    assert load_clip(str(path), trust=True).embed_dim == 16
    assert sizes_of(str(path), trust=True).input_resolution == 16


def test_trust_does_not_reach_pickles(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match="not a plain state dict") as caught:
        load_clip(str(path), trust=True)
    assert "weights_only" not in str(caught.value), "torch's advice to switch the safety off is not passed on"


@pytest.mark.parametrize("content", [{1: torch.zeros(1)}, {"a": torch.eye(2).to_sparse()}, [torch.zeros(1)], {"a": 1}])
def test_what_is_no_mapping_of_names_to_dense_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "x.pt"
    torch.save(content, path)
    for refused in (load_clip, sizes_of):
        with pytest.raises(CheckpointError, match="does not hold a state dict"):
            refused(str(path))


def test_a_prefix_is_taken_off_only_where_all_names_have_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, path)
    assert set(read_state(path, "")[0]) == {"module.a", "b"}
    torch.save({"module.a": torch.zeros(1), "module.module.b": torch.zeros(1)}, path)
    assert set(read_state(path, "")[0]) == {"a", "module.b"}


def test_an_old_file_of_torch_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(SMALL, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(path, "")[0]["visual.a"], SMALL["visual.a"])


def test_sizes_follow_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for resolution in (16, 24):
        changed = random_state(
            text_width=64, vision_width=64, text_layers=1, vision_layers=1, embed_dim=16, resolution=resolution,
            patch=8, seed=2,
        )  # fmt: skip
        torch.save(changed, path)
        assert sizes_of(str(path)).input_resolution == resolution


def test_an_npz_needs_the_hash_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"nothing")
    path.with_suffix(".json").write_text(json.dumps({"npz_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match=r"x\.npz is damaged"):
        sizes_of(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors"):
        with pytest.raises(DataError, match="does not exist"):
            sizes_of(str(tmp_path / name))


@pytest.mark.parametrize("name", ["ctx", "prompt_learner.ctx", "visual_ctx", "compound_prompts_text.0"])
def test_a_checkpoint_of_prompts_is_recognized(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {name: torch.zeros(2, 4)}, "epoch": 1}, tmp_path / "model.pth.tar-1")
    for read in (read_shapes, lambda path: read_state(path, sha256_of(path))):
        with pytest.raises(CheckpointError, match=r"holds learned prompts, not CLIP weights.*MODEL\.INIT_WEIGHTS"):
            read(tmp_path / "model.pth.tar-1")


def test_no_name_of_clip_is_taken_for_one_of_prompts(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "clip.pt")
    assert read_shapes(tmp_path / "clip.pt").keys() == state().keys()


def test_a_download_that_broke_off_is_said_to_be_one(tmp_path: Path) -> None:
    write_torchscript(tmp_path / "ViT.pt", SMALL, 8)
    whole = (tmp_path / "ViT.pt").read_bytes()
    (tmp_path / "ViT.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="broke off"):
        read_shapes(tmp_path / "ViT.pt")
