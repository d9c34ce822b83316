"""The pre-training script: a smoke run writes a loadable archive and a description that fits it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "pretrain_micro_clip.py"
ASSETS = REPOSITORY / "cpt_plugin" / "assets"


def call_script(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True, text=True, env=environment
    ).stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    call_script("--smoke", "--out", str(folder))
    return folder


@pytest.fixture(params=["smoke", "stored"])
def folder(request: pytest.FixtureRequest) -> Path:
    return ASSETS if request.param == "stored" else request.getfixturevalue("smoke")


def test_hash_and_description_fit_the_archive(folder: Path) -> None:
    description = json.loads((folder / "micro_clip.json").read_text())
    data = (folder / "micro_clip.npz").read_bytes()
    assert description["npz_sha256"] == hashlib.sha256(data).hexdigest()
    assert len(data) <= 10e6
    assert len(description["zero_shot"]) >= 8
    assert all(0 <= f[half] <= 100 for f in description["zero_shot"].values() for half in ("base", "new"))
    scale = description["recipe"]["logit_scale"]
    assert description["geometry"]["logit_scale"] == pytest.approx(scale, rel=0.01)


def test_archive_has_the_documented_layout(folder: Path) -> None:
    architecture = json.loads((folder / "micro_clip.json").read_text())["architecture"]
    with np.load(folder / "micro_clip.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ids, rows = arrays["token_embedding.ids"], arrays["token_embedding.rows"]
    assert rows.shape == (len(ids), architecture["transformer_width"])
    assert ids.dtype == np.int32
    assert (np.diff(ids) > 0).all()
    assert arrays.pop("token_embedding.vocab_size") == architecture["vocab_size"] > ids.max()
    assert arrays["positional_embedding"].shape == (77, architecture["transformer_width"])
    for name, array in arrays.items():
        assert np.isfinite(array.astype(np.float64)).all(), name
        assert name == "token_embedding.ids" or array.dtype == np.float16
    assert arrays["logit_scale"].shape == ()


def test_archive_fits_the_model_class_key_by_key(folder: Path) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from micro_clip.archive import load_weights
        from micro_clip.model import Architecture, MicroClip
    finally:
        sys.path.remove(str(SCRIPT.parent))
    with np.load(folder / "micro_clip.npz", allow_pickle=False) as stored:
        vocabulary = stored["token_embedding.ids"].tolist()
    state = torch.get_rng_state()
    model = MicroClip(Architecture(), vocabulary, cone=1.0, alignment=0.0, scale=1.0)
    torch.set_rng_state(state)
    load_weights(model, folder / "micro_clip.npz")
    features = model.encode_text(torch.tensor([[vocabulary[-2], vocabulary[0], vocabulary[-1]]]))
    assert features.shape == (1, 128)
    assert features.isfinite().all()


def test_same_seed_same_file(smoke: Path, tmp_path: Path) -> None:
    call_script("--smoke", "--out", str(tmp_path))
    assert (tmp_path / "micro_clip.npz").read_bytes() == (smoke / "micro_clip.npz").read_bytes()


def test_help_names_every_option() -> None:
    text = call_script("--help")
    assert all(option in text for option in ("--smoke", "--out", "--seed", "--vision-steps", "--cone"))
