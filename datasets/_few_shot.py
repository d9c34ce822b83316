"""From the full lists of a data set to the few-shot lists of a run, the way CoOp draws them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cpt_plugin.toolkit import generate_fewshot_dataset, subsample_classes

VALIDATION_SHOTS = 4


def few_shot(
    train: Sequence[Any], val: Sequence[Any], test: Sequence[Any], cfg: Any
) -> tuple[list[Any], list[Any], list[Any]]:
    """Draw ``NUM_SHOTS`` training and up to 4 validation items a class, then select base or new classes.

    Drawn with ``random.Random(SEED)``, train then val, over all classes, before ``SUBSAMPLE_CLASSES`` selects a
    half: the draw that CoOp makes with the same seed. ``NUM_SHOTS`` below 1 keeps everything.
    """
    shots = cfg.DATASET.NUM_SHOTS
    draw = random.Random(cfg.SEED)
    train = generate_fewshot_dataset(train, num_shots=shots, rng=draw)
    val = generate_fewshot_dataset(val, num_shots=min(shots, VALIDATION_SHOTS), rng=draw)
    train, val, test = subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
    return train, val, test


def left_for_validation(train: Sequence[Any], cfg: Any) -> list[Any]:
    """Validation items for a data set without any: up to 4 a class of the training items that :func:`few_shot` leaves.

    The draw is private to them and follows from SEED; the classes are then selected as there. Where ``NUM_SHOTS``
    below 1 trains on everything, nothing is left.
    """
    shots = cfg.DATASET.NUM_SHOTS
    drawn = generate_fewshot_dataset(train, num_shots=shots, rng=random.Random(cfg.SEED))
    taken = {item.impath for item in drawn}
    rest = [item for item in train if item.impath not in taken]
    draw = random.Random(f"validation images left of the training images {cfg.SEED}")
    val = generate_fewshot_dataset(rest, num_shots=min(shots, VALIDATION_SHOTS), rng=draw)
    return subsample_classes(train, val, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)[1]
