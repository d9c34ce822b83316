"""Evaluators: accuracy, error, macro F1, per-class results and confusion counts of a classifier."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpt_plugin.atomic import atomic_write
from cpt_plugin.errors import DataError, TrainingError
from cpt_plugin.toolkit.embedded.logs import LOGGER
from cpt_plugin.toolkit.embedded.registry import EVALUATOR_REGISTRY


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
    r"""Accuracy, error rate and macro F1 in percent; per class and as confusion counts when configured.

    Macro F1 is the mean over the classes present in the ground truth of
    :math:`2 t_c / (2 t_c + f^+_c + f^-_c)`, with :math:`t_c` hits, :math:`f^+_c` false alarms and
    :math:`f^-_c` misses of class :math:`c`.
    """

    def __init__(self, cfg: Any, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname
        self.reset()

    def reset(self) -> None:
        self._truth: list[torch.Tensor] = []
        self._predicted: list[torch.Tensor] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Takes logits (B, K) and labels (B,).

        Raises:
            TrainingError: a logit is NaN.
        """
        if torch.isnan(mo).any():
            raise TrainingError(f"the logits of batch {len(self._truth) + 1} of the evaluation contain NaN")
        self._predicted.append(mo.argmax(dim=1).cpu())
        self._truth.append(gt.cpu())

    def class_counts(self) -> list[tuple[int, int]]:
        """Returns (correct, total) of every class, by label."""
        truth, predicted = self._arrays()
        size = self._num_classes(truth)
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
        results = OrderedDict(
            accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * macro_f1(truth, predicted)
        )
        LOGGER.info(
            f"=> result\n* total: {len(truth):,}\n* correct: {correct:,}\n* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n* macro_f1: {results['macro_f1']:.1f}%"
        )
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


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the mean F1 in [0, 1] over the classes present in ``truth`` (see :class:`Classification`)."""
    size = int(max(truth.max(), predicted.max())) + 1
    hits = np.bincount(truth[truth == predicted], minlength=size)
    present = np.bincount(truth, minlength=size)
    claimed = np.bincount(predicted, minlength=size)
    labels = present > 0
    return float(np.mean(2.0 * hits[labels] / (present + claimed)[labels]))
