"""DPC's batches: which classes stand against each image (Li et al., CVPR 2025, section 3.3)."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from torch import Tensor

LEAST = 2


def hard_negatives(
    logits: Tensor, labels: Sequence[int], top_k: int, classes: Collection[int], rng: random.Random
) -> list[list[int]]:
    """Negative classes of each image of a batch; no class twice in the whole batch, and none that is a label in it.

    In the order of the images: of the ``top_k`` classes with the highest logits all but the image's own label, at
    most ``top_k - 1``, those that no earlier image has taken, the hardest first; where fewer than 2 are left,
    random ones of the classes not taken so far fill up to 2, as far as there are any. (The released code keeps
    all ``top_k`` where the label is not among them, and never draws class 0 at random.)

    Args:
        logits: (b, K) of the first stage.
        labels: b labels.
        top_k: 2 or more; more than K means K.
        classes: those of 0 .. K - 1 that have training images; only they are chosen.
        rng: drawn from only where classes are filled up.
    """
    ranking = logits.topk(min(top_k, logits.shape[1]), dim=1).indices.tolist()
    free = {*classes} - {*labels}
    chosen = []
    for label, ranked in zip(labels, ranking, strict=True):
        hardest = [c for c in ranked if c != label][: top_k - 1]
        own = [c for c in hardest if c in free]
        free -= {*own}
        missing = min(LEAST - len(own), len(free))
        if missing > 0:
            own += rng.sample(sorted(free), missing)
            free -= {*own}
        chosen.append(own)
    return chosen
