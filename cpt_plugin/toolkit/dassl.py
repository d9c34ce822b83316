"""The toolkit's names served by the released Dassl, repaired for current torch (see ``compat``)."""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections import Counter
from typing import Any

import torch

from cpt_plugin import metrics
from cpt_plugin.toolkit import compat

compat.prepare_dassl()

import dassl.data.data_manager as _data_manager  # noqa: E402
import dassl.engine.trainer as _trainer  # noqa: E402
from dassl.config import get_cfg_default as _get_cfg_default  # noqa: E402
from dassl.data.data_manager import build_data_loader  # noqa: E402
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset  # noqa: E402
from dassl.data.transforms import build_transform  # noqa: E402
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer, TrainerX, build_trainer  # noqa: E402
from dassl.engine.trainer import TrainerBase  # noqa: E402
from dassl.evaluation import EVALUATOR_REGISTRY, build_evaluator  # noqa: E402
from dassl.evaluation.evaluator import Classification, EvaluatorBase  # noqa: E402
from dassl.metrics import compute_accuracy  # noqa: E402
from dassl.optim import build_lr_scheduler, build_optimizer  # noqa: E402
from dassl.utils import (  # noqa: E402
    Registry,
    collect_env_info,
    count_num_param,
    load_pretrained_weights,
    set_random_seed,
)
from dassl.utils import load_checkpoint as _load_checkpoint  # noqa: E402
from dassl.utils import setup_logger as _setup_logger  # noqa: E402

from cpt_plugin.errors import CheckpointError  # noqa: E402
from cpt_plugin.long_tail import long_tail_subset, most_per_class  # noqa: E402
from cpt_plugin.toolkit.embedded.config import add_package_keys  # noqa: E402
from cpt_plugin.toolkit.embedded.data import (  # noqa: E402
    generate_fewshot_dataset,
    present_items,
    read_split,
    split_hash,
)
from cpt_plugin.toolkit.embedded.evaluation import confidence_of  # noqa: E402
from cpt_plugin.toolkit.embedded.logs import setup_logger as _log_to_console  # noqa: E402
from cpt_plugin.toolkit.embedded.resume import run_identity  # noqa: E402
from cpt_plugin.toolkit.embedded.sampling import subsample_classes  # noqa: E402

compat.repair_dassl()
LOG = logging.getLogger("cpt_plugin")

__all__ = [
    "DATASET_REGISTRY",
    "EVALUATOR_REGISTRY",
    "TRAINER_REGISTRY",
    "Classification",
    "DataManager",
    "DatasetBase",
    "Datum",
    "EvaluatorBase",
    "Registry",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "build_data_loader",
    "build_dataset",
    "build_evaluator",
    "build_lr_scheduler",
    "build_optimizer",
    "build_trainer",
    "build_transform",
    "collect_env_info",
    "compute_accuracy",
    "count_num_param",
    "generate_fewshot_dataset",
    "get_cfg_default",
    "load_checkpoint",
    "load_pretrained_weights",
    "present_items",
    "read_split",
    "set_random_seed",
    "setup_logger",
    "subsample_classes",
]


def get_cfg_default() -> Any:
    """Dassl's default configuration plus this package's own ``DATASET`` and ``TRAIN`` keys."""
    cfg = _get_cfg_default()
    add_package_keys(cfg)
    return cfg


class DataManager(_data_manager.DataManager):
    """Dassl's, plus what records of runs need."""

    def __init__(self, cfg: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(cfg, *args, **kwargs)
        self._root = cfg.DATASET.ROOT

    @functools.cached_property
    def class_counts(self) -> list[int]:
        """Training images of each class, by label."""
        counts = Counter(item.label for item in self.dataset.train_x)
        return [counts[label] for label in range(self.num_classes)]

    @functools.cached_property
    def split_hash(self) -> str:
        """SHA-256 of all items after every selection."""
        return split_hash(self.dataset, self._root)


def _class_counts(evaluator: Any) -> list[tuple[int, int]]:
    """(correct, total) of every class of the last evaluation, by label."""
    total = Counter(evaluator._y_true)
    pairs = zip(evaluator._y_true, evaluator._y_pred, strict=True)
    correct = Counter(truth for truth, predicted in pairs if truth == predicted)
    return [(correct[label], total[label]) for label in range(_size(evaluator))]


def _predicted_counts(evaluator: Any) -> list[int]:
    """Images that the last evaluation took for each class, by label."""
    counts = Counter(evaluator._y_pred)
    return [counts[label] for label in range(_size(evaluator))]


def _calibration_error(evaluator: Any) -> float | None:
    """Expected calibration error (%) of the last evaluation."""
    batches = getattr(evaluator, "confidence", [])
    confidence = torch.cat(batches) if batches else torch.zeros(0)
    correct = [truth == predicted for truth, predicted in zip(evaluator._y_true, evaluator._y_pred, strict=True)]
    return metrics.expected_calibration_error(confidence, correct)


def _size(evaluator: Any) -> int:
    return 1 + max([*evaluator._y_true, *evaluator._y_pred, *(evaluator._lab2cname or ())], default=-1)


def _keep_confidence(reset: Any, process: Any) -> tuple[Any, Any]:
    """Both of the evaluator's methods, which then leave the softmax's maximum of each image in ``confidence``."""

    @functools.wraps(reset)
    def reset_too(self: Any) -> None:
        reset(self)
        self.confidence = []

    @functools.wraps(process)
    def process_and_keep(self: Any, mo: torch.Tensor, gt: torch.Tensor) -> None:
        process(self, mo, gt)
        self.__dict__.setdefault("confidence", []).append(confidence_of(mo))

    return reset_too, process_and_keep


def _keep_losses(run_epoch: Any) -> Any:
    """Leaves the meters of the last epoch in ``trainer.losses``; Dassl drops them."""

    @functools.wraps(run_epoch)
    def run_and_keep(self: Any) -> None:
        original, made = _trainer.MetricMeter, []

        def make(*args: Any, **kwargs: Any) -> Any:
            made.append(original(*args, **kwargs))
            return made[-1]

        _trainer.MetricMeter = make
        try:
            run_epoch(self)
        finally:
            _trainer.MetricMeter = original
            self.losses = made[0] if made else original()

    return run_and_keep


def _checkpoint_header(trainer: Any) -> dict[str, Any]:
    """What the checkpoints of this package's trainers say about their run; nothing of trainers of others."""
    return run_identity(trainer, "dassl") if hasattr(trainer, "hashed_config") else {}


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """Reads a checkpoint through Dassl; nothing in the file can run code unless the environment allows it.

    Raises:
        CheckpointError: the file is missing, damaged, or holds live objects as Dassl used to write them.
    """
    try:
        return _load_checkpoint(fpath)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"Cannot read the checkpoint {fpath} ({reason}). It is missing, damaged, or from a Dassl that stored "
            "its scheduler as a live object; such a file loads with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 set, "
            "if you trust where it comes from."
        ) from error


class DasslLog:
    """Dassl's copy of the standard output in ``<output>/log.txt``, with this package's log records in it.

    :meth:`close` puts the standard output back. Dassl's own object would close it when it is deleted.
    """

    def __init__(self, output: str = "") -> None:
        self._console = sys.stdout
        _setup_logger(str(output) or None)
        self._copy: Any = sys.stdout
        self._records = _log_to_console()

    def close(self) -> None:
        """Stops logging; a second call does nothing."""
        self._records.close()
        in_place = sys.stdout is self._copy
        if in_place and self._copy is not self._console:
            sys.stdout = self._console
            self._copy.flush()
            self._copy.console = io.StringIO()
            self._copy.close()


def setup_logger(output: str = "", quiet: bool = False) -> DasslLog:
    """Sends Dassl's lines and this package's log records to the console and, given a folder, to its log file.

    As in Dassl the file is ``<output>/log.txt``, or one with the time in its name where that is taken; Dassl's
    own lines cannot be kept off the console, so ``quiet`` changes nothing.
    """
    return DasslLog(output)


def _build_long_tailed_dataset(cfg: Any) -> Any:
    dataset = build_dataset(cfg)
    c = cfg.DATASET
    if getattr(c, "IMBALANCE_TAU", 1) != 1 and dataset.train_x:
        dataset._train_x, info = long_tail_subset(
            dataset.train_x, c.IMBALANCE_TAU, c.CLASS_ORDER, most_per_class(c), max(cfg.SEED, 0),
            num_classes=dataset.num_classes,
        )  # fmt: skip
        LOG.info(info.describe())
        LOG.info(f"long tail: images of each class, by label: {' '.join(map(str, info.counts))}")
    return dataset


_data_manager.build_dataset = _build_long_tailed_dataset
_trainer.DataManager = DataManager
compat.keep_header(_trainer)
TrainerBase.checkpoint_header = _checkpoint_header
TrainerX.run_epoch = _keep_losses(TrainerX.run_epoch)
SimpleTrainer.global_step = property(lambda self: self.epoch * self.num_batches + self.batch_idx)
SimpleTrainer.num_steps = property(lambda self: self.max_epoch * self.num_batches)
SimpleTrainer.losses = _trainer.MetricMeter()
Classification.class_counts = _class_counts
Classification.predicted_counts = _predicted_counts
Classification.calibration_error = _calibration_error
Classification.reset, Classification.process = _keep_confidence(Classification.reset, Classification.process)
