"""Features of finished runs, computed once from their checkpoints and kept beside their records."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cpt_plugin.cli.repository import default_cfg
from cpt_plugin.cli.settings import reads
from cpt_plugin.errors import ConfigError, RecordError
from cpt_plugin.methods import ZEROSHOT, parse_method
from cpt_plugin.results import features as store
from cpt_plugin.results import record as records
from cpt_plugin.results.features import Features

LOG = logging.getLogger("cpt_plugin")
CLASSES = ("trained", "new")
_CLUSTER_KEYS = {"num_clusters": "CPT.NUM_CLUSTERS", "cluster_size": "CPT.CLUSTER_SIZE", "seed": "CPT.CLUSTER_SEED"}


def features_of(record_file: Path, root: Path, classes: str = "trained") -> Features:
    """Features of a run's trained prompts on the test images: those kept beside its record, else computed now.

    classes: ``trained``, or ``new`` for those that a base-to-new run was not trained on.

    Raises:
        RecordError: the record or the kept features are damaged.
        CPTError: the data or the checkpoint are not there any more.
    """
    record = records.load(record_file)
    path = record_file.parent / (store.FILE if classes == "trained" else f"features-{classes}.npz")
    if path.is_file():
        kept = store.load(path)
        if (kept.prompts_hash, kept.backbone) == (record.prompts_hash, record.backbone.digest):
            return kept.of(record)
    found = compute(record, record_file.parent, root, classes)
    found.save(path)
    return found


def compute(record: records.RunRecord, folder: Path, root: Path, classes: str = "trained") -> Features:
    """Build the run's trainer again, load its prompts from ``folder``, and encode names and test images.

    Text features that depend on the image are averaged over the test images and scaled to length 1.

    Raises:
        RecordError: the prompts are not those of the record.
        CPTError: data, weights or checkpoint cannot be used.
    """
    import torch

    from cpt_plugin import toolkit

    task = _task(record, classes)
    cfg = _configuration(record, root, task.classes)
    toolkit.set_random_seed(record.seed)
    trainer = toolkit.build_trainer(cfg)
    if record.method != ZEROSHOT:
        best = cfg.TEST.FINAL_MODEL == "best_val"
        trainer.load_model(str(folder), epoch=None if best else trainer.max_epoch)
        if trainer.prompts_hash != record.prompts_hash:
            raise RecordError(f"{folder}: the checkpoint's prompts are not those of the record: repeat the run")
    trainer.set_model_mode("eval")
    with torch.no_grad():
        text, image, labels = _encode(trainer)
        frozen = torch.nn.functional.normalize(trainer.frozen_text_features().float(), dim=-1)
    return Features(
        method=record.method,
        prompt_learner=record.prompt_learner,
        dataset=record.dataset,
        tau=record.tau,
        protocol=record.protocol,
        seed=record.seed,
        classes=task.classes,
        prompts_hash=record.prompts_hash,
        backbone=record.backbone.digest,
        class_names=tuple(trainer.dm.dataset.classnames),
        class_counts=(),
        by_schedule=False,
        clusters=_clusters(record, frozen, trainer.dm.dataset.classnames),
        text=text.cpu().numpy(),
        frozen_text=frozen.cpu().numpy(),
        image=image.cpu().numpy(),
        labels=labels.cpu().numpy(),
    ).of(record)


def _task(record: records.RunRecord, classes: str) -> records.Evaluation:
    if classes == "trained":
        return record.trained
    if classes not in record.evaluations:
        raise ConfigError(f"a {record.protocol} run has no '{classes}' classes; there are {', '.join(CLASSES)}")
    return record.evaluations[classes]


def _configuration(record: records.RunRecord, root: Path, classes: str) -> Any:
    from cpt_plugin.toolkit.embedded.config import merge_list

    method = parse_method(record.method)
    cfg = default_cfg(method.parts)
    merge_list(cfg, [word for pair in record.config.items() for word in pair])
    own = {"DATASET.ROOT": str(root), "DATASET.SUBSAMPLE_CLASSES": classes, "OUTPUT_DIR": "", "SEED": record.seed}
    merge_list(cfg, [word for key, value in own.items() if reads(method, key) for word in (key, value)])
    cfg.freeze()
    return cfg


def _encode(trainer: Any) -> tuple[Any, Any, Any]:
    """Unit text (K, d) and image (N, d) features in float32, and labels (N,)."""
    import torch
    from torch.nn.functional import normalize

    texts: list[Any] = []
    images, labels = [], []
    for batch in trainer.test_loader:
        pixels, label = trainer.parse_batch_test(batch)
        with trainer.precision.context(trainer.device):
            if hasattr(trainer.model, "prompt_learner"):
                prediction = trainer.model(pixels, with_features=True)
                image, own = prediction.image, prediction.text
            else:
                image, own = normalize(trainer.model.image_encoder(pixels), dim=-1), trainer.model.text
        texts = [own.float()] if own.ndim == 2 else [*texts, own.float().sum(0)]
        images.append(image.float())
        labels.append(label)
    return normalize(sum(texts), dim=-1), torch.cat(images), torch.cat(labels)


def _clusters(record: records.RunRecord, frozen: Any, names: list[str]) -> tuple[int, ...]:
    """CPT's clusters of these classes, by the run's own settings where it has some."""
    from cpt_plugin.clusters import SemanticClusters

    own = {name: record.config[key] for name, key in _CLUSTER_KEYS.items() if key in record.config}
    own["num_clusters"] = min(own.get("num_clusters") or 0, len(names)) or None
    return tuple(SemanticClusters.fit(frozen, names, **own).assignment.tolist())
