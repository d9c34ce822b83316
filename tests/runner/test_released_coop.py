"""The runner in a checkout of the released CoOp with the released Dassl, on tiny random weights."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.conftest import released
from tests.runner.released import CLASSES, Released, events, frozen_text, prepare

OFF = ("CPT.WEIGHT_ETF", "0", "CPT.WEIGHT_CC", "0", "CPT.WEIGHT_RS", "0")
EPOCHS = 3


@pytest.fixture(scope="module")
def coop(tmp_path_factory: pytest.TempPathFactory) -> Released:
    repository, dassl = released("CPT_RELEASED_COOP", "CPT_RELEASED_DASSL")
    folder = tmp_path_factory.mktemp("coop")
    prepare(folder)
    return Released(Path(repository), Path(dassl), folder)


def words(coop: Released, output: str, *more: str) -> list[str]:
    """CoOp's usual arguments, for three short epochs."""
    return [
        "train.py", "--root", str(coop.folder / "data"), "--seed", "1", "--trainer", "CoOp",
        "--dataset-config-file", "configs/datasets/eurosat.yaml",
        "--config-file", "configs/trainers/CoOp/vit_b16_ep50.yaml", "--output-dir", str(coop.folder / output), *more,
        "TRAINER.COOP.N_CTX", "4", "TRAINER.COOP.PREC", "fp32", "DATASET.NUM_SHOTS", "8", "INPUT.SIZE", "(32, 32)",
        "OPTIM.MAX_EPOCH", str(EPOCHS), "DATALOADER.TRAIN_X.BATCH_SIZE", "12", "DATALOADER.NUM_WORKERS", "0",
        "TRAIN.PRINT_FREQ", "1", "TRAIN.CHECKPOINT_FREQ", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(coop: Released) -> dict[str, Any]:
    """Finished runs by name; none of them has changed a file of the repository or of Dassl."""
    before = coop.tree_hash()
    features = ("--frozen-text", str(frozen_text(coop.folder / "features.pt")))
    commands = {
        "plain": words(coop, "plain"),
        "zero": [*words(coop, "zero"), *OFF],
        "none": ["--regularizers", "none", *words(coop, "none"), "DATASET.IMBALANCE_TAU", "0.25"],
        "cpt": [*features, *words(coop, "cpt"), "CPT.CLUSTER_SIZE", "3", "CPT.WEIGHT_ETF", "1"],
        "balanced": [*features, *words(coop, "balanced"), "CPT.CLUSTER_SIZE", "3", "CPT.WEIGHTING", "balanced"],
    }
    done: dict[str, Any] = {}
    for name, command in commands.items():
        done[name] = coop.run(*command, plain=name == "plain")
        assert done[name].returncode == 0, done[name].stderr[-3000:]
        done[f"{name} loads"] = coop.loads()
    assert coop.tree_hash() == before
    return done


def log(coop: Released, name: str) -> str:
    return (coop.folder / name / "log.txt").read_text()


def learning_rates(text: str) -> list[tuple[str, str]]:
    """(epoch, rate) of every logged step."""
    return re.findall(r"epoch \[(\d+)/\d+\] batch \[\d+/\d+\] .* lr (\S+)", text)


@pytest.mark.usefixtures("runs")
def test_log_and_curves_hold_the_parts(coop):
    text = log(coop, "cpt")
    assert re.search(r"^CPT:\n(  \w+: .*\n)*  WEIGHT_ETF: 1\.0$", text, re.MULTILINE)
    assert "  IMBALANCE_TAU: 1.0" in text
    assert "cpt_plugin: repaired for this process: " in text
    assert "warm-up schedulers without `verbose`" in text
    assert "cpt_plugin: CoOp trains with cpt" in text
    assert "CPT: 2 clusters over 6 classes" in text
    lines = [line for line in text.splitlines() if line.startswith("epoch [")]
    assert len(lines) == EPOCHS * 4
    curves = events(coop.folder / "cpt")
    for part in ("etf", "cc", "rs"):
        logged = [float(re.search(rf" loss_{part} (\S+) ", line)[1]) for line in lines]  # type: ignore[index]
        assert curves[f"train/loss_{part}"][0] == pytest.approx(logged[0], abs=1e-4)
        assert len(set(logged)) > EPOCHS
    total = sum(curves[f"train/loss_{part}"][-1] for part in ("etf", "cc", "rs"))
    assert curves["train/loss_reg"][-1] == pytest.approx(total, rel=1e-5)


@pytest.mark.usefixtures("runs")
def test_weight_0_is_bit_identical_and_a_weight_is_not(coop):
    contexts = {name: coop.prompts(coop.folder / name, EPOCHS)["ctx"] for name in ("plain", "zero", "cpt")}
    assert torch.equal(contexts["zero"], contexts["plain"])
    assert not torch.allclose(contexts["cpt"], contexts["plain"], atol=1e-3)
    lines = {name: re.findall(r" loss (\S+) .*? acc (\S+)", log(coop, name)) for name in ("plain", "zero")}
    assert lines["plain"] == lines["zero"]
    assert len(lines["plain"]) == EPOCHS * 4
    assert "all weights of cpt are 0" in log(coop, "zero")


@pytest.mark.usefixtures("runs")
def test_balanced_weights_are_set_in_the_first_step(coop):
    text = log(coop, "balanced")
    found = re.findall(
        r"balanced weights, step 1 \(epoch 1, batch 1\): gradient norms (\S+) of the main loss, (\S+) of part (\w+), "
        r"so its weight is (\S+)", text
    )  # fmt: skip
    fractions = {part: float(own) * float(weight) / float(main) for main, own, part, weight in found}
    assert fractions == pytest.approx({"etf": 0.03, "cc": 0.3, "rs": 0.3}, rel=2e-3)
    first = [re.findall(r" loss (\S+) .* loss_etf (\S+) ", log(coop, name))[0] for name in ("balanced", "cpt")]
    assert first[0][0] == first[1][0]
    assert first[0][1] != first[1][1]


def test_their_packages_are_imported(coop, runs):
    for name in ("plain", "cpt"):
        first = runs[f"{name} loads"][0]
        for package in ("clip", "datasets", "trainers"):
            assert str(first[package]).startswith(str(coop.repository))


@pytest.mark.usefixtures("runs")
def test_the_long_tail_is_a_prefix_of_their_few_shot_sample(coop):
    text = log(coop, "none")
    counts = [8, 6, 4, 3, 2, 2]  # floor(8 * 0.25^(r/5)) for r = 0..5, 8 being NUM_SHOTS
    assert "long tail: tau 0.25 asked, 0.25 realized; 6 classes ranked by label; 8 to 2 images a class, 25 in" in text
    assert f"long tail: images of each class, by label: {' '.join(map(str, counts))}" in text
    assert re.search(rf"# train_x\s+{sum(counts)}\n", text)
    assert re.search(rf"# classes\s+{len(CLASSES)}\n", text)
    assert "--regularizers none" in text


def test_frozen_features_come_from_the_clip_that_the_trainer_loads(coop, runs):
    done = coop.run(*words(coop, "own features"), "OPTIM.MAX_EPOCH", "1", "CPT.CLUSTER_SIZE", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(coop.loads()) == 2  # the trainer's, and the frozen one
    assert "CPT: 2 clusters over 6 classes" in done.stdout
    first = [re.findall(r" loss (\S+) .* loss_rs (\S+) ", log(coop, name))[0] for name in ("own features", "cpt")]
    assert first[0][0] == first[1][0]  # the same images in the same order: nothing was drawn on the way
    assert first[0][1] != first[1][1]


@pytest.mark.usefixtures("runs")
def test_evaluation_needs_no_hook_and_reads_checkpoints_of_an_unrepaired_dassl(coop):
    """With weights on and without frozen features; CLIP is loaded once, by the trainer."""
    saved = torch.load(coop.folder / "cpt" / "prompt_learner" / f"model.pth.tar-{EPOCHS}", weights_only=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    saved["scheduler"]["successor"] = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3.0)
    old = coop.folder / "old" / "prompt_learner" / "model.pth.tar-7"
    old.parent.mkdir(parents=True)
    torch.save(saved, old)
    evaluate = ("--eval-only", "--model-dir", str(coop.folder / "old"), "--load-epoch", "7")
    done = coop.run(*words(coop, "evaluated", *evaluate))
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(coop.loads()) == 1
    accuracy = [re.findall(r"\* accuracy: (\S+)", text)[-1] for text in (log(coop, "cpt"), done.stdout)]
    assert accuracy[0] == accuracy[1]
    assert "trains with" not in done.stdout


@pytest.mark.usefixtures("runs")
def test_a_resumed_run_goes_on_with_its_learning_rate(coop):
    """Dassl resumes by itself; without the repair the rate stays where it was."""
    folder = coop.folder / "zero" / "prompt_learner"
    whole = learning_rates(log(coop, "zero"))
    final = coop.prompts(coop.folder / "zero", EPOCHS)["ctx"]
    resumed = coop.folder / "resumed" / "prompt_learner"
    resumed.mkdir(parents=True)
    (resumed / "model.pth.tar-1").write_bytes((folder / "model.pth.tar-1").read_bytes())
    (resumed / "checkpoint").write_text("model.pth.tar-1\n")
    done = coop.run(*words(coop, "resumed"), *OFF)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "will resume training" in done.stdout
    assert learning_rates(log(coop, "resumed")) == whole[4:]
    assert len(Counter(rate for _, rate in whole)) == EPOCHS + 1
    assert coop.prompts(coop.folder / "resumed", EPOCHS)["ctx"].shape == final.shape


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (("OPTIM.MAX_EPOC", "3"), 1, "AssertionError: Non-existent key: OPTIM.MAX_EPOC"),
        (("DATASET.IMBALANCE_TAU", "2"), 2, "error: DATASET.IMBALANCE_TAU is 2.0: give the ratio min / max"),
        (("CPT.WEIGHTING", "equal"), 2, "error: CPT.WEIGHTING must be printed or balanced, got 'equal'"),
        (("CPT.WEIGHT_CC", "-1"), 2, "error: CPT.WEIGHT_CC must be a finite number >= 0, got -1.0"),
    ],
)
def test_whose_error_it_is(coop, more, status, message):
    done = coop.run(*words(coop, "refused"), *more)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[-1]
    assert ("Traceback" in done.stderr) == (status == 1)


def test_their_parser_speaks_for_itself(coop):
    done = coop.run("train.py", "--nonsense")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("usage: train.py [-h] [--root ROOT]")
    assert done.stderr.splitlines()[-1] == "train.py: error: unrecognized arguments: --nonsense"
