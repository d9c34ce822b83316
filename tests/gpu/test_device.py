"""What the parts of the library do on a device of their own: waits, times, clusters, scalars."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpt_plugin import CPTLoss, SemanticClusters
from cpt_plugin.hook.balance import GradientBalance, Target
from cpt_plugin.profiling import CudaClock, Profile
from tests.helpers.prompt_runs import prompt_cfg, train

CLASSES, WIDTH = 100, 512
NAMES = [f"class {i}" for i in range(CLASSES)]


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_cpt_loss_never_waits_for_the_device(cuda: torch.device) -> None:
    frozen, labels = features(CLASSES, WIDTH), (torch.arange(32) % CLASSES).to(cuda)
    text = (frozen + 0.1 * features(CLASSES, WIDTH).flip(0)).to(cuda).requires_grad_()
    image = features(32, WIDTH).to(cuda).requires_grad_()
    criterion = CPTLoss(frozen, NAMES)

    def step() -> torch.Tensor:
        loss, _ = criterion(image=image, text=text, labels=labels)
        loss.backward()
        return loss

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step()
        with pytest.raises(RuntimeError, match="synchroniz"):
            loss.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


def test_clock_gives_the_time_of_the_device(cuda: torch.device) -> None:
    """A long product counts for its section though the host has gone on; an empty section is short."""
    profile, matrix = Profile(CudaClock()), torch.randn(4096, 4096, device=cuda)
    _ = matrix @ matrix
    torch.cuda.synchronize()
    start = time.perf_counter()
    with profile.running():
        with profile.section("text"):
            for _ in range(20):
                _ = matrix @ matrix
        with profile.section("update"):
            pass
    wall = time.perf_counter() - start
    assert profile.seconds["text"] > 10 * profile.seconds["update"] >= 0
    assert 0.3 * wall < profile.total < 1.1 * wall


def test_profile_of_a_training_epoch(folder: Path, tmp_path: Path, device: torch.device) -> None:
    choice = ("USE_CUDA", device.type == "cuda", "TRAINER.MAPLE.PREC", "fp32", "DATALOADER.NUM_WORKERS", 0)
    trainer = train(prompt_cfg(folder, tmp_path, "MaPLeCPT", *choice))
    assert type(trainer.profile._clock).__name__ == {"cuda": "CudaClock", "cpu": "HostClock"}[device.type]
    seconds = trainer.profile.seconds
    assert seconds.keys() == {"data", "image", "text", "regularizer", "backward", "update", "other"}
    assert all(value > 0 for value in seconds.values())
    assert trainer.profile.total < trainer.train_seconds


def test_clusters_do_not_depend_on_where_the_features_are(device: torch.device) -> None:
    frozen = features(CLASSES, WIDTH)
    there, here = SemanticClusters.fit(frozen.to(device), NAMES), SemanticClusters.fit(frozen, NAMES)
    assert there.digest == here.digest
    assert there.assignment.device.type == "cpu"


def test_clusters_made_by_faiss_on_the_gpu(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of well separated groups there is one best map, which k-means finds on either device."""
    import faiss

    if getattr(faiss, "get_num_gpus", lambda: 0)() < 1:
        pytest.skip("this FAISS build has no GPU support (faiss-cpu): clusters are made on the CPU")
    centers = features(7, WIDTH)
    frozen = centers[torch.arange(CLASSES) % 7] + 0.05 * features(CLASSES, WIDTH).flip(0)
    on_gpu = SemanticClusters.fit(frozen.to(cuda), NAMES, 7)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert on_gpu.digest == SemanticClusters.fit(frozen, NAMES, 7).digest


def test_balance_waits_for_a_part_without_any_gradient(device: torch.device) -> None:
    model = nn.Linear(3, 2).to(device)
    balance = GradientBalance(SimpleNamespace(model=model))
    balance.want("none", Target(0.3))
    balance.want("some", Target(0.3))
    output = model(torch.ones(4, 3, device=device))
    parts = {"none": torch.ones((), device=device), "some": output.square().sum()}
    balance.observe(parts, [output], [torch.ones_like(output)], torch.ones((), device=device), "step 1")
    assert balance.factors["none"] == 0.0
    assert balance.factors["some"] > 0
