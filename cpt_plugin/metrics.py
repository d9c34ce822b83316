"""How well a classifier does on classes of unequal size: pure functions of counts and confidences, all in percent.

Those of counts need the standard library only: commands are checked with them in reach before anything is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import fmean
from typing import TYPE_CHECKING

from cpt_plugin.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Tested = Sequence[tuple[int, int]]
"""(correct, total) test images of each class, by label."""

CALIBRATION_BINS = 15


def class_accuracy(correct: int, total: int) -> float | None:
    """100 * correct / total, or None for a class without test images.

    Raises ConfigError unless 0 <= correct <= total.
    """
    if not 0 <= correct <= total:
        raise ConfigError(f"{correct} correct of {total} test images cannot be")
    return 100 * correct / total if total else None


def balanced_accuracy(tested: Tested) -> float | None:
    r"""Mean accuracy of the classes that have test images.

    .. math:: \frac{100}{|S|} \sum_{c \in S} \frac{t_c}{n_c}

    with :math:`t_c` correct of the :math:`n_c` test images of class :math:`c`, and :math:`S` the classes with
    :math:`n_c > 0`. In 0..100; None where no class has a test image.

    Source: Brodersen et al., ICPR 2010, for any number of classes.

    >>> balanced_accuracy([(9, 10), (1, 2), (0, 0)])
    70.0
    """
    present = _accuracies(tested)
    return fmean(present) if present else None


def g_mean(tested: Tested) -> float | None:
    r"""Geometric mean of the accuracies of the classes that have test images: 0 as soon as one class is never right.

    .. math:: 100 \Bigl(\prod_{c \in S} t_c / n_c\Bigr)^{1/|S|}

    with the symbols of :func:`balanced_accuracy`, which it never exceeds. None where no class has a test image.

    Source: Kubat and Matwin, ICML 1997; for several classes Sun et al., ICDM 2006.

    >>> round(g_mean([(8, 10), (2, 10)]), 6)
    40.0
    """
    present = _accuracies(tested)
    if not present or min(present) == 0:
        return 0.0 if present else None
    return exp(fmean(map(log, present)))


def macro_f1(tested: Tested, predicted: Sequence[int]) -> float | None:
    r"""Mean F1 of the classes that have test images.

    .. math:: \frac{100}{|S|} \sum_{c \in S} \frac{2 t_c}{n_c + p_c}

    with the symbols of :func:`balanced_accuracy` and :math:`p_c` the images taken for class :math:`c`
    (``predicted``). In 0..100; None where no class has a test image.

    Raises ConfigError when there are not as many ``predicted`` as classes, or fewer of one than correct ones.

    >>> macro_f1([(2, 2), (0, 2)], [4, 0])
    33.333333333333336
    """
    if len(tested) != len(predicted):
        raise ConfigError(f"{len(tested)} classes tested, but {len(predicted)} counts of predictions")
    if impossible := [label for label, ((hits, _), claimed) in enumerate(zip(tested, predicted, strict=True))
                      if claimed < hits]:  # fmt: skip
        raise ConfigError(f"class {impossible[0]} is predicted less often than it is correct")
    present = [
        200 * hits / (total + claimed) for (hits, total), claimed in zip(tested, predicted, strict=True) if total
    ]
    return fmean(present) if present else None


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS
) -> float | None:
    r"""How far confidence and accuracy are apart, averaged over the images.

    .. math:: 100 \sum_{b=1}^{B} \frac{|I_b|}{N} \bigl|\mathrm{acc}(I_b) - \mathrm{conf}(I_b)\bigr|

    with :math:`I_b` those of the :math:`N` images whose confidence lies in :math:`((b-1)/B, b/B]` (0 in the first
    bin), acc the share of correct ones among them and conf their mean confidence.

    Args:
        confidence: (N,) probability of the class chosen, in [0, 1].
        correct: (N,) whether it is the right one.
        bins: B, at least 1.

    Returns:
        A value in 0..100; None for no images, or for a confidence that is not finite.

    Raises:
        ConfigError: lengths that differ, a confidence outside [0, 1], or no bins.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599), equation 3, with 15 bins.

    >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
    0.0
    """
    import numpy as np

    sure, hits = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.shape != hits.shape or sure.ndim != 1:
        raise ConfigError(f"confidence {sure.shape} and correct {hits.shape} must be two lists of the same length")
    if bins < 1:
        raise ConfigError(f"{bins} bins: give at least 1")
    if not len(sure) or not np.isfinite(sure).all():
        return None
    if sure.min() < 0 or sure.max() > 1 + 1e-6:
        raise ConfigError(f"confidences from {sure.min()} to {sure.max()} are no probabilities")
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, hits - sure, minlength=bins)
    return float(100 * np.abs(gaps).sum() / len(sure))


def _accuracies(tested: Tested) -> list[float]:
    return [value for one in tested if (value := class_accuracy(*one)) is not None]
