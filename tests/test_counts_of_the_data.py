"""All that speaks of frequent and rare classes agrees with the list of training images, whatever the schedule."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt_plugin import toolkit
from cpt_plugin.cli.recording import evaluation, make_record
from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.methods import parse_method
from cpt_plugin.protocols import FEW_SHOT_ALL, tasks
from cpt_plugin.results import record as records
from cpt_plugin.results.figures.group import group_records
from cpt_plugin.results.figures.registry import draw
from cpt_plugin.results.table import render_csv
from cpt_plugin.toolkit.embedded.evaluation import Classification
from cpt_plugin.toolkit.embedded.group_report import report_groups
from tests.helpers.fixtures.images import draw_image

NAMES = ("apple", "ball", "cup", "dog", "egg", "fish", "gnu")
TESTED = 3


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "one.png"
    draw_image(path, 0, 0)
    return path


def folder_of(root: Path, counts, image) -> None:
    shutil.rmtree(root / "mine", ignore_errors=True)
    for part, sizes in (("train", counts), ("test", [TESTED] * len(counts))):
        for name, size in zip(NAMES, sizes, strict=False):
            (root / "mine" / part / name).mkdir(parents=True)
            for index in range(size):
                os.link(image, root / "mine" / part / name / f"{index}.png")


def evaluated_trainer(cfg, logits):
    """As a trainer is after its test, with these logits (N, K) for the test images."""
    dm = toolkit.DataManager(cfg)
    evaluator = Classification(cfg, dm.lab2cname)
    evaluator.process(logits, torch.tensor([item.label for item in dm.dataset.test]))
    losses = SimpleNamespace(meters={})
    clip = SimpleNamespace(name="micro", digest="ab" * 32)
    precision = SimpleNamespace(name="fp32")
    return SimpleNamespace(
        cfg=cfg, dm=dm, evaluator=evaluator, losses=losses, clip=clip, device="cpu", precision=precision
    )


def recorded(trainer, cfg):
    arguments = SimpleNamespace(
        dataset="mine", tau=cfg.DATASET.IMBALANCE_TAU, shots=cfg.DATASET.NUM_SHOTS, protocol=FEW_SHOT_ALL
    )
    run = SimpleNamespace(
        arguments=arguments, seed=cfg.SEED, method=parse_method("coop"), variant="", trained=None,
        tasks=tasks(FEW_SHOT_ALL, "mine"),
    )  # fmt: skip
    return make_record(run, trainer, {"all": evaluation(run.tasks[0], trainer)}, {"train": 0.0})


@given(data=st.data(), counts=st.lists(st.integers(2, 20), min_size=2, max_size=len(NAMES)), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_every_figure_of_a_group_is_that_of_the_list_of_images(tmp_path_factory, image, data, counts, seed):
    root = tmp_path_factory.getbasetemp() / "counts"
    folder_of(root, counts, image)
    cfg = default_cfg()
    cfg.SEED, cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.FOLDER = seed, str(root), "ImageFolder", "mine"
    cfg.OUTPUT_DIR = str(root)
    cfg.DATASET.NUM_SHOTS = data.draw(st.sampled_from([4, 16, 64]))
    cfg.DATASET.MAX_PER_CLASS = cfg.DATASET.NUM_SHOTS
    cfg.DATASET.IMBALANCE_TAU = data.draw(st.sampled_from([1.0, 0.25]))
    cfg.DATASET.CLASS_ORDER = data.draw(st.sampled_from(["label", "random"]))
    logits = torch.randn(TESTED * len(counts), len(counts), generator=torch.Generator().manual_seed(seed))
    trainer = evaluated_trainer(cfg, logits)
    record = recorded(trainer, cfg)
    records.save(record, root / "record.json")
    assert records.load(root / "record.json") == record

    images = Counter(Path(item.impath).parent.name for item in trainer.dm.dataset.train_x)
    names = [result.name for result in record.trained.per_class]
    assert list(record.class_counts) == [images[name] for name in names]
    by_size = sorted(range(len(names)), key=lambda label: (-images[names[label]], label))
    guessed, truth = logits.argmax(1).numpy(), np.repeat(np.arange(len(names)), TESTED)
    accuracy = [100 * (guessed[truth == label] == label).mean() for label in range(len(names))]
    members = dict(zip(("head", "mid", "tail"), map(list, np.array_split(by_size, 3)), strict=True)) | {
        "many": [label for label in by_size if images[names[label]] >= 10],
        "medium": [label for label in by_size if 4 <= images[names[label]] <= 9],
        "few": [label for label in by_size if images[names[label]] <= 3],
    }
    wanted = {name: np.mean([accuracy[k] for k in of]) if of else None for name, of in members.items()}
    for name, of in members.items():
        assert (record.groups[name].classes, record.groups[name].accuracy) == (len(of), pytest.approx(wanted[name]))
    header, values = (line.split(",") for line in render_csv([record]).splitlines())
    shown = dict(zip(header, values, strict=False))
    for name, value in wanted.items():
        assert shown[name] == "" if value is None else float(shown[name]) == pytest.approx(value)
    logged = report_groups(trainer.dm, trainer.evaluator, trainer.dm.class_counts)
    if len(set(images.values())) > 1:
        assert logged == {name: pytest.approx(value) for name, value in wanted.items() if value is not None}
    groups, _ = group_records([record])
    panel = draw("classes", groups)[0].figure.axes[-1]
    labels = [f"{names[label]} ({images[names[label]]})" for label in by_size]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == labels


def test_the_tail_of_a_folder_is_its_rare_classes_whatever_the_alphabet(tmp_path, image, caplog):
    """apple .. fish with 2 4 6 10 16 20 images: the head is egg and fish, the tail apple and ball."""
    counts = (2, 4, 6, 10, 16, 20)
    folder_of(tmp_path, counts, image)
    cfg = default_cfg()
    cfg.SEED, cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.FOLDER = 1, str(tmp_path), "ImageFolder", "mine"
    cfg.DATASET.NUM_SHOTS, cfg.OUTPUT_DIR = 16, str(tmp_path)
    right = {"egg", "fish"}
    logits = torch.zeros(TESTED * 6, 6)
    for row in range(len(logits)):
        label = row // TESTED
        logits[row, label if NAMES[label] in right else (label + 1) % 6] = 1.0
    trainer = evaluated_trainer(cfg, logits)
    with caplog.at_level(logging.INFO, logger="cpt_plugin"):
        logged = report_groups(trainer.dm, trainer.evaluator, trainer.dm.class_counts)
    record = recorded(trainer, cfg)
    assert record.class_counts == (2, 4, 6, 10, 16, 16)
    assert record.realized_tau == 0.125
    assert (logged["head"], logged["tail"]) == (100.0, 0.0)
    assert (record.groups["head"].accuracy, record.groups["tail"].accuracy) == (100.0, 0.0)
    assert "* head: 100.0% (2 classes" in caplog.text
    assert dataclasses.asdict(record)["groups"]["few"] == {"classes": 1, "accuracy": 0.0}
