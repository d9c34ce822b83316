"""Classification results against scikit-learn, per class, as counts and as log lines."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from cpt_plugin.errors import DataError, TrainingError
from cpt_plugin.toolkit.embedded.config import get_cfg_default
from cpt_plugin.toolkit.embedded.evaluation import Classification
from cpt_plugin.toolkit.embedded.registry import build_evaluator

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle of this file")


def evaluator(tmp_path, classes=6, per_class=False, confusion=False):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.TEST.PER_CLASS_RESULT, cfg.TEST.COMPUTE_CMAT = per_class, confusion
    return build_evaluator(cfg, lab2cname={label: f"name{label}" for label in range(classes)})


def one_hot(predicted, classes):
    return torch.nn.functional.one_hot(torch.as_tensor(predicted), classes).float()


@pytest.mark.parametrize("seed", range(20))
def test_results_agree_with_scikit_learn(tmp_path, seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 9))
    truth = rng.integers(0, rng.integers(1, classes + 1), 57)
    predicted = np.where(rng.random(57) < 0.6, truth, rng.integers(0, classes, 57))
    subject = evaluator(tmp_path, classes, per_class=True, confusion=True)
    assert isinstance(subject, Classification)
    for part in (slice(0, 20), slice(20, 57)):
        subject.process(one_hot(predicted[part], classes), torch.as_tensor(truth[part]))
    results = subject.evaluate()
    present = np.unique(truth)
    recalls = metrics.recall_score(truth, predicted, average=None, labels=present)
    expected = {
        "accuracy": 100 * metrics.accuracy_score(truth, predicted),
        "error_rate": 100 - 100 * metrics.accuracy_score(truth, predicted),
        "macro_f1": 100 * metrics.f1_score(truth, predicted, average="macro", labels=present),
        "balanced_accuracy": 100 * recalls.mean(),
        "g_mean": 100 * np.prod(recalls) ** (1 / len(present)),
        "ece": 100 * abs(np.mean(truth == predicted) - np.e / (np.e + classes - 1)),  # every confidence is the same
        "perclass_accuracy": 100
        * metrics.recall_score(truth, predicted, average="macro", labels=present, zero_division=0),
    }
    assert list(results) == list(expected)
    for key, value in expected.items():
        assert results[key] == pytest.approx(value, abs=1e-9)
    matrix = metrics.confusion_matrix(truth, predicted, labels=range(classes))
    with np.load(tmp_path / "cmat.npz", allow_pickle=False) as saved:
        assert np.array_equal(saved["counts"], matrix)
    assert subject.predicted_counts() == matrix.sum(0).tolist()
    assert subject.class_counts() == [(matrix[c, c], matrix[c].sum()) for c in range(classes)]


def test_log_lines(tmp_path, caplog):
    subject = evaluator(tmp_path, 2, per_class=True)
    subject.process(one_hot([0] * 1500 + [1] * 500, 2), torch.tensor([0] * 1000 + [1] * 1000))
    with caplog.at_level(logging.INFO, logger="cpt_plugin"):
        subject.evaluate()
    assert "\n".join(record.getMessage() for record in caplog.records) == (
        "=> result\n* total: 2,000\n* correct: 1,500\n* accuracy: 75.0%\n* error: 25.0%\n* macro_f1: 73.3%\n"
        "=> with every class counting alike, and calibration\n* balanced_accuracy 75.0%, g_mean 70.7%, ece 1.9%\n"
        "=> per-class result\n"
        "* class: 0 (name0)\ttotal: 1,000\tcorrect: 1,000\tacc: 100.0%\n"
        "* class: 1 (name1)\ttotal: 1,000\tcorrect: 500\tacc: 50.0%\n"
        "* average: 75.0%"
    )


def test_reset_forgets(tmp_path):
    subject = evaluator(tmp_path)
    subject.process(one_hot([0], 6), torch.tensor([1]))
    subject.reset()
    assert subject.class_counts() == [(0, 0)] * 6
    with pytest.raises(DataError, match="no image"):
        subject.evaluate()


def test_nan_logits_are_no_prediction(tmp_path):
    subject = evaluator(tmp_path)
    with pytest.raises(TrainingError, match="batch 1"):
        subject.process(torch.tensor([[0.0, float("nan")]]), torch.tensor([0]))
    subject.process(torch.tensor([[0.0, float("-inf")]]), torch.tensor([0]))
