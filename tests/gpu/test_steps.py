"""Training steps on the GPU against the same step on the CPU in float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.gpu.steps import CPU, LEARNERS, Step, build, cosine, first_batch, precisions_of_a_gpu, step
from tests.helpers.prompt_runs import prompt_cfg, train
from tests.trainers.problems import gradient_norms

RHO = {"etf": 0.03, "cc": 0.3, "rs": 0.3}


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Step]:
    """Steps on the CPU in float32, each made once."""
    made: dict[str, Step] = {}

    def of(name: str) -> Step:
        if name not in made:
            made[name] = step(folder, tmp_path_factory.mktemp(name), name, "fp32", CPU)
        return made[name]

    return of


@pytest.mark.parametrize("name", [name + part for name in LEARNERS for part in ("", "CPT")])
def test_float32_step_is_that_of_the_cpu(
    folder: Path, tmp_path: Path, device: torch.device, reference: Callable[[str], Step], name: str
) -> None:
    found, expected = step(folder, tmp_path, name, "fp32", device), reference(name)
    assert torch.equal(found.start, expected.start)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.gradient - expected.gradient).norm() < 1e-4 * expected.gradient.norm()
    assert (found.update - expected.update).norm() < 1e-4 * expected.update.norm()


@pytest.mark.parametrize(
    ("name", "prec"), [*((name, "amp") for name in LEARNERS), *product(("CoOp", "MaPLe"), ("amp_bf16", "fp16"))]
)
def test_half_precision_step_goes_the_way_of_float32(
    folder: Path, tmp_path: Path, device: torch.device, reference: Callable[[str], Step], name: str, prec: str
) -> None:
    """Loss within 2 %, directions within 8 degrees, and CPT's gradient, by itself, as long as in float32 within 5 %.

    Under a loss scale of 1024 that reached CPT's parts twice or not at all, their gradient would be that many times
    too long or too short.
    """
    plain, whole = (step(folder, tmp_path / part, name + part, prec, device) for part in ("", "CPT"))
    exact_plain, exact = reference(name), reference(f"{name}CPT")
    for found, expected in ((plain, exact_plain), (whole, exact)):
        assert torch.equal(found.start, expected.start)
        assert found.loss == pytest.approx(expected.loss, rel=0.02)
        assert cosine(found.gradient, expected.gradient) > 0.99
        assert cosine(found.update, expected.update) > 0.99
    of_cpt, exact_of_cpt = whole.gradient - plain.gradient, exact.gradient - exact_plain.gradient
    assert cosine(of_cpt, exact_of_cpt) > 0.99
    assert float(of_cpt.norm() / exact_of_cpt.norm()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("prec", "tolerance"), [("fp32", 1e-3), ("amp", 0.03), ("amp_bf16", 0.1)])
@pytest.mark.parametrize("name", ["CoOp", "MaPLe"])
def test_balanced_weights_are_the_fractions_that_float32_measures(
    folder: Path, tmp_path: Path, device: torch.device, name: str, prec: str, tolerance: float
) -> None:
    """Norms by hand in float32 on the CPU, weights from the step in that precision."""
    by_hand = build(folder, tmp_path / "by hand", name, "fp32", CPU)
    norms = gradient_norms(by_hand, first_batch(by_hand), RHO)
    hook = step(folder, tmp_path / "step", f"{name}CPTB", prec, device).trainer.hook
    fractions = {part: hook.factors[part] * norms[part] / norms["main"] for part in RHO}
    assert fractions == pytest.approx(RHO, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "prec"), [("CoOpCPTB", "amp"), ("MaPLeCPT", "amp_bf16"), ("PromptSRCCPT", "fp16")]
)
def test_whole_run_in_half_precision(folder: Path, tmp_path: Path, device: torch.device, name: str, prec: str) -> None:
    """The scaler starts at its own scale, from which overflowing steps bring it down."""
    node = name.split("CPT")[0].upper()
    options = (f"TRAINER.{node}.PREC", prec, "USE_CUDA", device.type == "cuda", "DATALOADER.NUM_WORKERS", 0)
    with precisions_of_a_gpu():
        trainer = train(prompt_cfg(folder, tmp_path, name, *options, "OPTIM.MAX_EPOCH", 4, "CPTB.CLUSTER_SIZE", 2))
    assert all(torch.isfinite(p).all() for p in trainer.model.prompt_learner.parameters())
    assert trainer.skipped_steps < trainer.max_epoch * trainer.num_batches / 2
    assert all(factor > 0 for factor in trainer.hook.factors.values())
    assert trainer.hook.total > 0
    assert 0 <= trainer.results["accuracy"] <= 100
