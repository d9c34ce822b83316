"""One short run of the released MaPLe under the runner: fp16 and its own copy of CLIP, as published."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.parity.conftest import released
from tests.runner.released import Released, events, frozen_text, prepare, write_weights

WIDTH = 512


def test_maple_trains_hooked_and_keeps_its_files(tmp_path: Path) -> None:
    """Its dimensions are fixed to 512 and 768; on a CPU one step takes seconds in fp16, so there is one."""
    repository, dassl = released("CPT_RELEASED_MAPLE", "CPT_RELEASED_DASSL")
    prepare(tmp_path)
    write_weights(tmp_path / "tiny.pt", text_width=WIDTH, vision_width=768, embed_dim=WIDTH)
    maple = Released(Path(repository), Path(dassl), tmp_path)
    features = frozen_text(tmp_path / "features.pt", width=WIDTH)
    before = maple.tree_hash()
    done = maple.run(
        "--frozen-text", str(features), "train.py", "--root", str(tmp_path / "data"), "--seed", "1",
        "--trainer", "MaPLe", "--dataset-config-file", "configs/datasets/eurosat.yaml",
        "--config-file", "configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml",
        "--output-dir", str(tmp_path / "out"), "DATASET.NUM_SHOTS", "1", "INPUT.SIZE", "(32, 32)",
        "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "TRAINER.MAPLE.PROMPT_DEPTH", "2",
        "TEST.NO_TEST", "True", "CPT.CLUSTER_SIZE", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert maple.tree_hash() == before
    assert "cpt_plugin: MaPLe trains with cpt" in done.stdout
    curves = events(tmp_path / "out")
    assert all(curves[f"train/loss_{part}"][0] > 0 for part in ("etf", "cc", "rs"))
    trained = maple.prompts(tmp_path / "out", epoch=1, name="MultiModalPromptLearner")
    assert all(torch.isfinite(value).all() for key, value in trained.items() if "prompt_learner" in key)
