"""Our second stage over CoOp beside the released one: batches, loss, gradient, and 20 steps."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.encoders import freeze_clip, resolve_precision
from cpt_plugin.toolkit import TRAINER_REGISTRY, TrainerBase
from tests.parity import dpc_problem
from tests.parity.conftest import released, subprocess_environment
from tests.parity.dpc_problem import EPOCH_LENGTH, N_CTX, NAMES, OPTIM, RESOLUTION, TOP_K, VARIANTS, absent_label, data
from tests.parity.ours import wide_losses
from tests.parity.problems import relative_error
from tests.parity.verdicts import GRADIENT, TRAINED
from trainers._negatives import hard_negatives

TYPES = [torch.float32, torch.float64]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dpc") / "weights.pt"
    torch.save(dpc_problem.weights(), path)
    return str(path)


@pytest.fixture(scope="module")
def theirs(weights: str) -> dict[str, Any]:
    repository, dassl = released("CPT_RELEASED_DPC", "CPT_RELEASED_DASSL")
    result = Path(weights).with_name("result.pt")
    worker = Path(__file__).with_name("dpc_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), repository, weights, str(result)],
        env=subprocess_environment(dassl), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return torch.load(result, weights_only=False)


def build(weights: str, dtype: torch.dtype, variant: str) -> Any:
    """Our trainer with the problem's prompts, stage-one logits and images, without a data set."""
    cfg = default_cfg()
    values = {
        "SEED": 1,
        "MODEL.BACKBONE.NAME": weights,
        "INPUT.SIZE": (RESOLUTION, RESOLUTION),
        "TRAINER.COOP.N_CTX": N_CTX,
        "TRAINER.COOP.PREC": "fp32",
        "TRAINER.DPC.TOP_K": TOP_K,
        "OPTIM.WEIGHT_DECAY": VARIANTS[variant]["own_decay"],
        **{f"OPTIM.{key}": value for key, value in OPTIM.items()},
    }
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    cls = TRAINER_REGISTRY.get("CoOpDPC")
    trainer = cls.__new__(cls)
    TrainerBase.__init__(trainer)
    trainer.cfg, trainer.device, trainer.epoch, trainer.num_classes = cfg, torch.device("cpu"), 0, len(NAMES)
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=list(NAMES)))

    def load(precision: str) -> Any:
        trainer.precision = resolve_precision("fp32", "cpu")
        return freeze_clip(torch.load(weights, weights_only=True), "tiny", "tiny", dtype=dtype)

    trainer.load_frozen_clip = load
    trainer.build_model()
    learner = trainer.model.prompt_learner.to(dtype)
    problem = data(dtype)
    learner.load_state_dict({"stage_one.ctx": problem.context, "parallel.ctx": problem.context})
    trainer.images_of = {label: [label] for label in range(len(NAMES))}
    trainer.training_image = lambda index: problem.pool[index]
    return trainer


def bytes_of(row: Tensor) -> bytes:
    return row.detach().numpy().tobytes()


def run(weights: str, dtype: torch.dtype, variant: str) -> dict[str, Any]:
    trainer, problem = build(weights, dtype, variant), data(dtype)
    trainer.num_batches, made, original = EPOCH_LENGTH, [], trainer.parse_batch_train
    trainer.parse_batch_train = lambda batch: made.append(original(batch)) or made[-1]
    corners: dict[bytes, Tensor] = {}

    def remember(_: Any, inputs: tuple[Tensor, ...], features: Tensor) -> None:
        """The first number of the image that each row of features was made from."""
        if inputs[0].ndim == 4:
            corners.update(zip(map(bytes_of, features), inputs[0][:, 0, 0, 0], strict=True))

    trainer.model.image_encoder.register_forward_hook(remember)
    trainer.set_model_mode("train")
    losses, gradient, parameter = [], torch.empty(0), trainer.model.prompt_learner.parallel.ctx
    with wide_losses() if dtype == torch.float64 else nullcontext():
        for step, (image, label, logits) in enumerate(zip(*problem[2:], strict=True)):
            trainer.batch_idx = step % EPOCH_LENGTH
            trainer.stage_one = lambda image, logits=logits: logits
            losses.append(trainer.forward_backward({"img": image, "label": label})["loss"])
            if step == 0:
                gradient = parameter.grad.clone()
    return {
        "images": [torch.stack([corners[bytes_of(row)] for row in features]) for features, _ in made],
        "labels": [labels.tolist() for _, labels in made],
        "losses": losses,
        "gradient": gradient,
        "trained": parameter.detach(),
    }


@pytest.fixture(scope="module")
def ours(weights: str) -> dict[str, Any]:
    return {(str(dtype), variant): run(weights, dtype, variant) for dtype in TYPES for variant in VARIANTS}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_batches_are_the_released_ones(theirs: dict[str, Any], ours: dict[str, Any], dtype: torch.dtype) -> None:
    """Same images and classes in the same order."""
    released_run, own = theirs[str(dtype), "as released"], ours[str(dtype), "as released"]
    assert own["labels"] == released_run["labels"]
    assert all(torch.equal(a, b) for a, b in zip(own["images"], released_run["images"], strict=True))
    assert min(map(len, own["labels"])) < max(map(len, own["labels"])), "classes taken by earlier images were left out"
    assert any(len(set(labels)) < len(labels) for labels in own["labels"]), "equal labels stay"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_loss_gradient_and_steps(
    theirs: dict[str, Any], ours: dict[str, Any], dtype: torch.dtype, variant: str
) -> None:
    released_run, own, name = theirs[str(dtype), variant], ours[str(dtype), variant], str(dtype).removeprefix("torch.")
    assert released_run["P moved"] == (variant == "as released")
    losses = max(abs(a - b) / b for a, b in zip(own["losses"], released_run["losses"], strict=True))
    gradient, trained = (relative_error(own[key], released_run[key]) for key in ("gradient", "trained"))
    moved = relative_error(data(dtype).context, released_run["trained"])
    first = abs(own["losses"][0] - released_run["losses"][0]) / released_run["losses"][0]
    print(f"loss {first:.1e}, over 20 steps {losses:.1e}; gradient {gradient:.1e}; prompts {trained:.1e}, {moved:.1e}")
    assert first <= 1e-5
    assert gradient <= GRADIENT[name]
    assert trained <= TRAINED[name]
    assert moved > 100 * TRAINED["float32"]


def test_where_the_label_is_not_among_the_hardest_the_released_code_keeps_one_more(theirs: dict[str, Any]) -> None:
    logits, label = absent_label()
    ours = hard_negatives(logits, label, TOP_K, range(len(NAMES)), random.Random(0))
    assert theirs["torch.float32", "as released"]["absent"] == [*label, *range(TOP_K)]
    assert ours == [list(range(TOP_K - 1))]
