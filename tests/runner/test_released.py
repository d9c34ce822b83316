"""Every released ``train.py`` here runs under the runner as published, with a long tail and CPT, on a tiny random CLIP.

CPT_RELEASED_COOP, _MAPLE, _PROMPTSRC, _KGCOOP, _TCP, _MMA, _CANDLE, _ATPROMPT name clones of those repositories,
CPT_RELEASED_DASSL one of Dassl.pytorch. Precision is the published one but for TCP, whose Adam has no epsilon in half
precision; ``.cuda()`` does nothing where there is no GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parity.conftest import released
from tests.runner.released import CLASSES, Released, events, frozen_text, prepare, write_weights

SHOTS, TAU, BATCH = 16, 0.25, 13
PARTS = ("etf", "cc", "rs")
SIZES = {"text_width": 64, "vision_width": 64, "embed_dim": 32}


@dataclass(frozen=True)
class Case:
    """One released trainer.

    variable, folder: the environment variable with its clone, and where in it ``train.py`` stands.
    more: key-value pairs that a CPU or the tiny CLIP asks for; sizes: those of the CLIP that its code is fixed to.
    options, functions: what stands before the script, and the file ``mine.py`` that it may name; without these, the
    features are found by themselves.
    """

    variable: str
    trainer: str
    config: str
    more: str = ""
    folder: str = "."
    sizes: tuple[tuple[str, int], ...] = ()
    options: str = ""
    functions: str = ""


_OF_CANDLE = """
def features(step):
    images, classes = len(step.inputs[0]), step.output[0].shape[1]
    fused = step.text[0]
    return fused[-classes:], fused[:images]
"""

CASES = (
    Case("CPT_RELEASED_COOP", "CoOp", "CoOp/vit_b16_ep50", "TRAINER.COOP.N_CTX 4"),
    Case(
        "CPT_RELEASED_MAPLE", "MaPLe", "MaPLe/vit_b16_c2_ep5_batch4_2ctx",
        "TRAINER.MAPLE.PROMPT_DEPTH 2 DATALOADER.TRAIN_X.BATCH_SIZE 28 DATASET.SUBSAMPLE_CLASSES base "
        "TEST.NO_TEST True",
        sizes=(("text_width", 512), ("vision_width", 768), ("embed_dim", 512)),
    ),
    Case("CPT_RELEASED_PROMPTSRC", "PromptSRC", "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx"),
    Case("CPT_RELEASED_KGCOOP", "KgCoOp", "KgCoOp/vit_b16_ep100_ctxv1", folder="KgCoOp"),
    Case(
        "CPT_RELEASED_TCP", "TCP", "TCP/vit_b16_ep100_ctxv1",
        "TRAINER.COOP.PREC fp32 OPTIM.NAME sgd DATALOADER.TRAIN_X.BATCH_SIZE 14 DATASET.SUBSAMPLE_CLASSES base "
        "TEST.NO_TEST True",
        sizes=(("text_width", 512), ("text_layers", 9)),
    ),
    Case(
        "CPT_RELEASED_MMA", "MultiModalAdapter", "MultiModalAdapter/vit_b16_ep5",
        "TRAINER.MMADAPTER.ADAPTER_START 1 TRAINER.MMADAPTER.ADAPTER_END 2",
    ),
    Case(
        "CPT_RELEASED_ATPROMPT", "CoOp_ATP", "CoOp/vit_b16_ep50", "TRAINER.ATPROMPT.USE_ATPROMPT True "
        "TRAINER.COOP.N_CTX 4",
    ),
    Case(
        "CPT_RELEASED_CANDLE", "Candle", "Candle/vit_b16_bs128_lr0.0003",
        options="--frozen-text {folder}/features.pt --text-module proto_manager.head.fusion "
        "--image-module clip_model.visual --features {folder}/mine.py:features",
        functions=_OF_CANDLE,
    ),
)  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda case: case.trainer)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def repository(case: Case, tmp_path: Path) -> Iterator[Released]:
    """Images and weights for the case; no file of the repository or of Dassl is another after the test."""
    clone, dassl = released(case.variable, "CPT_RELEASED_DASSL")
    prepare(tmp_path, train=SHOTS)
    write_weights(tmp_path / "tiny.pt", **{**SIZES, **dict(case.sizes)})
    frozen_text(tmp_path / "features.pt")
    (tmp_path / "mine.py").write_text(case.functions)
    repository = Released(Path(clone) / case.folder, Path(dassl), tmp_path)
    before = repository.tree_hash()
    yield repository
    assert repository.tree_hash() == before


def command(case: Case, repository: Released) -> list[str]:
    """The arguments that its readers know, one epoch of few steps, and ours behind them."""
    return [
        *case.options.format(folder=repository.folder).split(),
        "train.py", "--root", str(repository.folder / "data"), "--seed", "1", "--trainer", case.trainer,
        "--dataset-config-file", "configs/datasets/eurosat.yaml",
        "--config-file", f"configs/trainers/{case.config}.yaml", "--output-dir", str(repository.folder / "out"),
        "DATASET.NUM_SHOTS", str(SHOTS), "INPUT.SIZE", "(32, 32)", "OPTIM.MAX_EPOCH", "1",
        "DATALOADER.TRAIN_X.BATCH_SIZE", str(BATCH), "DATALOADER.NUM_WORKERS", "0", "TRAIN.PRINT_FREQ", "1",
        "CPT.WEIGHT_ETF", "0.25", "CPT.WEIGHT_CC", "0.15", "CPT.WEIGHT_RS", "0.1", "CPT.CLUSTER_SIZE", "3",
        "DATASET.IMBALANCE_TAU", str(TAU), *case.more.split(),
    ]  # fmt: skip


def rule(classes: int) -> list[int]:
    """max(1, floor(16 tau^(r / (K-1)))) for the ranks r = 0..K-1."""
    return [max(1, math.floor(SHOTS * TAU ** (rank / (classes - 1)))) for rank in range(classes)]


def test_a_released_train_py_runs_with_cpt_and_a_long_tail(case, repository):
    done = repository.run(*command(case, repository))
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    text = (repository.folder / "out" / "log.txt").read_text()

    counts = rule(len(CLASSES) // 2 if "SUBSAMPLE_CLASSES base" in case.more else len(CLASSES))
    assert repository.training_sets() == [counts]
    assert f"long tail: images of each class, by label: {' '.join(map(str, counts))}" in text
    assert re.search(rf"# train_x\s+{sum(counts)}\n", text)

    assert f"cpt_plugin: {case.trainer} trains with cpt" in text
    assert "CPT: weights etf 0.25, cc 0.15, rs 0.1" in text
    lines = [line for line in text.splitlines() if line.startswith("epoch [")]
    steps = sum(counts) // int(re.findall(r"BATCH_SIZE (\d+)", " ".join(command(case, repository)))[-1])
    assert len(lines) == steps
    for line in lines:
        values = {part: float(re.search(rf" loss_{part} (\S+) ", line)[1]) for part in (*PARTS, "reg")}  # type: ignore[index]
        assert all(values[part] > 0 for part in PARTS)
        assert values["reg"] == pytest.approx(sum(values[part] for part in PARTS), abs=3e-4)
    curves = events(repository.folder / "out")
    assert [len(curves[f"train/loss_{part}"]) for part in PARTS] == [steps] * len(PARTS)

    loads = repository.loads()
    assert loads
    for package, place in loads[-1].items():
        assert str(place).startswith(str(repository.repository / package))
