"""Evaluators: accuracy, error, macro F1, per-class results and confusion counts of a classifier."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpt_plugin import metrics
from cpt_plugin.atomic import atomic_write
from cpt_plugin.errors import DataError, TrainingError
from cpt_plugin.toolkit.embedded.logs import LOGGER
from cpt_plugin.toolkit.embedded.registry import EVALUATOR_REGISTRY

_MORE = ("balanced_accuracy", "g_mean", "ece")


class EvaluatorBase:
    """Interface: ``reset``, then ``process`` for each batch, then ``evaluate``."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy and error rate, macro F1, balanced accuracy, G-mean and calibration error (:mod:`cpt_plugin.metrics`).

    All in percent; accuracy per class and confusion counts when configured.
    """

    def __init__(self, cfg: Any, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname
        self.reset()

    def reset(self) -> None:
        self._truth: list[torch.Tensor] = []
        self._predicted: list[torch.Tensor] = []
        self._confidence: list[torch.Tensor] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Takes logits (B, K) and labels (B,).

        Raises:
            TrainingError: a logit is NaN.
        """
        if torch.isnan(mo).any():
            raise TrainingError(f"the logits of batch {len(self._truth) + 1} of the evaluation contain NaN")
        self._predicted.append(mo.argmax(dim=1).cpu())
        self._truth.append(gt.cpu())
        self._confidence.append(confidence_of(mo))

    def predicted_counts(self) -> list[int]:
        """Returns how many images were taken for each class, by label."""
        truth, predicted = self._arrays()
        return np.bincount(predicted, minlength=self._num_classes(truth, predicted)).tolist()

    def calibration_error(self) -> float | None:
        """Returns :func:`~cpt_plugin.metrics.expected_calibration_error` of the softmax of the logits."""
        truth, predicted = self._arrays()
        confidence = torch.cat(self._confidence).numpy() if self._confidence else np.zeros(0)
        return metrics.expected_calibration_error(confidence, truth == predicted)

    def class_counts(self) -> list[tuple[int, int]]:
        """Returns (correct, total) of every class, by label."""
        truth, predicted = self._arrays()
        size = self._num_classes(truth, predicted)
        total = np.bincount(truth, minlength=size)
        correct = np.bincount(truth[truth == predicted], minlength=size)
        return list(zip(correct.tolist(), total.tolist(), strict=True))

    def evaluate(self) -> OrderedDict[str, float]:
        """Logs the results and returns them; the first one, accuracy, is what ``trainer.test`` returns.

        Raises:
            DataError: nothing was processed.
        """
        truth, predicted = self._arrays()
        if not len(truth):
            raise DataError("the evaluation saw no image; check the split (TEST.SPLIT) and the data folder")
        correct = int((truth == predicted).sum())
        accuracy = 100.0 * correct / len(truth)
        tested = self.class_counts()
        values = {
            "accuracy": accuracy,
            "error_rate": 100.0 - accuracy,
            "macro_f1": metrics.macro_f1(tested, self.predicted_counts()),
            "balanced_accuracy": metrics.balanced_accuracy(tested),
            "g_mean": metrics.g_mean(tested),
            "ece": self.calibration_error(),
        }
        results = OrderedDict((name, value) for name, value in values.items() if value is not None)
        LOGGER.info(
            f"=> result\n* total: {len(truth):,}\n* correct: {correct:,}\n* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n* macro_f1: {results['macro_f1']:.1f}%"
        )
        more = ", ".join(f"{name} {results[name]:.1f}%" for name in _MORE if name in results)
        LOGGER.info(f"=> with every class counting alike, and calibration\n* {more}")
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._log_per_class()
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion(truth, predicted)
        return results

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._truth:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        return torch.cat(self._truth).numpy(), torch.cat(self._predicted).numpy()

    def _num_classes(self, *labels: np.ndarray) -> int:
        seen = max((int(array.max()) + 1 for array in labels if len(array)), default=0)
        return max(seen, max(self._lab2cname, default=-1) + 1 if self._lab2cname else 0)

    def _log_per_class(self) -> float:
        lines, accuracies = ["=> per-class result"], []
        for label, (correct, total) in enumerate(self.class_counts()):
            if not total:
                continue
            name = self._lab2cname[label] if self._lab2cname else str(label)
            accuracies.append(100.0 * correct / total)
            lines.append(
                f"* class: {label} ({name})\ttotal: {total:,}\tcorrect: {correct:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        mean = float(np.mean(accuracies))
        LOGGER.info("\n".join([*lines, f"* average: {mean:.1f}%"]))
        return mean

    def _save_confusion(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        size = self._num_classes(truth, predicted)
        counts = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, counts=counts)
        path = Path(self.cfg.OUTPUT_DIR) / "cmat.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, buffer.getvalue())
        LOGGER.info(f"Confusion counts (rows: truth) are saved to {path}")


def confidence_of(logits: torch.Tensor) -> torch.Tensor:
    """Returns the largest softmax probability (B,) of logits (B, K), in float64 on the CPU."""
    return logits.detach().double().softmax(dim=1).amax(dim=1).cpu()
