r"""Classification losses for training sets whose classes have different numbers of images.

Symbols: z (B, K) logits of B samples over K classes; y (B,) labels in 0 .. K-1; n (K,) training images of each class.
CE(z, y) is the mean over samples of -log softmax(z)_y. Labels are whole numbers and counts numbers >= 0: tensors of any
such type, arrays or lists. Every function returns a scalar in float32, or float64 if the logits are, computed outside
autocast, and gives finite values and gradients for finite logits and any counts >= 0: a class without training images
counts as having one where a logarithm, a power or a weight needs it. Labels on the CPU are checked at every call; on
another device, where a check would wait for it, a label out of range turns the loss into NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_plugin._numbers import number
from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional._checks import Labels, Numbers, class_indices, class_numbers, of_each_class, shape_of
from cpt_plugin.functional._normalize import full_precision, working_dtype


def log_prior(counts: Numbers) -> Tensor:
    """Log of each class's share of the training images, log pi_c = log n_c - log(sum of n); (K,), in float64.

    Raises:
        FeatureError: counts are not (K,), or one is negative or not finite.
    """
    images = _images(counts)
    return images.log() - images.sum().log()


def logit_adjustment(logits: Tensor, labels: Labels, counts: Numbers, tau: float = 1.0) -> Tensor:
    r"""Logit-adjusted cross-entropy, CE(z + tau log pi, y); tau = 0, or equal counts, give the cross-entropy.

    Args:
        logits, labels, counts: z, y, n as above.
        tau: finite; 1 is consistent for the balanced error.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.
        ConfigError: tau is not finite.

    Source: Menon et al., Long-tail learning via logit adjustment (ICLR 2021, arXiv 2007.07314), eq. 10.

    Example:
        >>> z, y = torch.zeros(1, 2), torch.tensor([1])
        >>> logit_adjustment(z, y, torch.tensor([3, 1]))  # -log(1/4)
        tensor(1.3863)
    """
    z, n = _logits(logits), _counts(counts, logits)
    y, valid = class_indices(labels, z, "logits", z.shape[1])
    tau = number("tau", tau)
    with full_precision(logits):
        return F.cross_entropy(z + tau * log_prior(n).to(z), y) * valid


def posthoc_adjustment(logits: Tensor, counts: Numbers, tau: float = 1.0) -> Tensor:
    """Logits z - tau log pi, (B, K), for the evaluation of a model that was trained with the cross-entropy.

    Raises:
        FeatureError: shapes or devices do not fit, or a count is negative or not finite.
        ConfigError: tau is not finite.

    Source: Menon et al. (ICLR 2021, arXiv 2007.07314), eq. 9.
    """
    z, n = _logits(logits), _counts(counts, logits)
    tau = number("tau", tau)
    with full_precision(logits):
        return z - tau * log_prior(n).to(z)


def balanced_softmax(logits: Tensor, labels: Labels, counts: Numbers) -> Tensor:
    r"""Cross-entropy under the balanced softmax, n_c exp(z_c) / sum_k n_k exp(z_k): logit adjustment with tau = 1.

    Args:
        logits, labels, counts: z, y, n as above.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.

    Source: Ren et al., Balanced meta-softmax for long-tailed visual recognition (NeurIPS 2020, arXiv 2007.10740), 3.1.
    """
    z, n = _logits(logits), _counts(counts, logits)
    y, valid = class_indices(labels, z, "logits", z.shape[1])
    with full_precision(logits):
        return F.cross_entropy(z + n.clamp_min(1).log().to(z), y) * valid


def focal(logits: Tensor, labels: Labels, gamma: float = 2.0) -> Tensor:
    r"""Focal loss, the mean of -(1 - p_y)^gamma log p_y with p = softmax(z); gamma = 0 gives the cross-entropy.

    Args:
        logits, labels: z, y as above.
        gamma: finite, >= 0.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.
        ConfigError: gamma is out of range.

    Source: Lin et al., Focal loss for dense object detection (ICCV 2017, arXiv 1708.02002), eq. 4, over a softmax.
    """
    z = _logits(logits)
    y, valid = class_indices(labels, z, "logits", z.shape[1])
    gamma = number("gamma", gamma, least=0)
    with full_precision(logits):
        log_p = -F.cross_entropy(z, y, reduction="none")
        missed = (-torch.expm1(log_p)).clamp_min(torch.finfo(z.dtype).tiny)
        return -(missed**gamma * log_p).mean() * valid


def effective_number_weights(counts: Numbers, beta: float = 0.9999) -> Tensor:
    r"""Weights w_c = (1 - beta) / (1 - beta^n_c) of classes, scaled to mean 1 over those with images; (K,), float64.

    (1 - beta^n) / (1 - beta) is the effective number of n images. beta = 0 weighs all classes alike; as beta goes to 1,
    w_c goes to 1 / n_c.

    Raises:
        FeatureError: counts are not (K,), or one is negative or not finite.
        ConfigError: beta is not in [0, 1).

    Source: Cui et al., Class-balanced loss based on effective number of samples (CVPR 2019, arXiv 1901.05555),
    sections 3.2 and 4.
    """
    beta = number("beta", beta, least=0, below=1)
    numbers = class_numbers(counts, "counts")
    images = numbers.clamp_min(1)
    weights = (1 - beta) / -torch.expm1(images * math.log(beta)) if beta > 0 else torch.ones_like(images)
    present = weights[numbers > 0] if bool((numbers > 0).any()) else weights
    return weights / present.mean()


def class_balanced(logits: Tensor, labels: Labels, counts: Numbers, beta: float = 0.9999) -> Tensor:
    r"""Class-balanced cross-entropy, the mean over samples of w_y CE, w from :func:`effective_number_weights`.

    beta = 0, or equal counts, give the cross-entropy.

    Args:
        logits, labels, counts: z, y, n as above.
        beta: in [0, 1).

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.
        ConfigError: beta is out of range.

    Source: Cui et al. (CVPR 2019, arXiv 1901.05555), section 4.1; the weights' mean is 1 there over all classes.
    """
    z, n = _logits(logits), _counts(counts, logits)
    y, valid = class_indices(labels, z, "logits", z.shape[1])
    with full_precision(logits):
        return _weighted(z, y, effective_number_weights(n, beta)) * valid


def ldam_margins(counts: Numbers, max_margin: float = 0.5) -> Tensor:
    """Margins Delta_c = C n_c^(-1/4), C such that the largest is ``max_margin``; (K,), float64.

    Raises:
        FeatureError: counts are not (K,), or one is negative or not finite.
        ConfigError: max_margin is negative or not finite.
    """
    max_margin = number("max_margin", max_margin, least=0)
    roots = _images(counts) ** -0.25
    return max_margin * roots / roots.max()


def ldam(
    logits: Tensor,
    labels: Labels,
    counts: Numbers,
    max_margin: float = 0.5,
    scale: float | Tensor = 1.0,
    beta: float = 0.0,
) -> Tensor:
    r"""Label-distribution-aware margin loss: the label's logit is lowered by its class's margin.

    .. math::
        \frac{1}{B} \sum_i w_{y_i} \mathrm{CE}(z_i - s \Delta_{y_i} e_{y_i}, y_i)

    with Delta from :func:`ldam_margins`, s the factor between cosines and logits, and w the weights of
    :func:`effective_number_weights`, all 1 for beta = 0. With weights from a late epoch on it is LDAM-DRW (deferred
    re-weighting). max_margin = 0 and beta = 0 give the cross-entropy.

    Args:
        logits, labels, counts: z, y, n as above.
        max_margin: of the rarest class, in units of the cosine, finite and >= 0.
        scale: s, a finite number >= 0 or a tensor of one (checked on the CPU only); 1 where margins are meant in units
            of the logits.
        beta: in [0, 1).

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.
        ConfigError: max_margin, scale or beta is out of range.

    Source: Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss (NeurIPS 2019, arXiv
    1906.07413), section 3.2 and algorithm 1; the weights are not divided by their sum over the batch.
    """
    z, n = _logits(logits), _counts(counts, logits)
    y, valid = class_indices(labels, z, "logits", z.shape[1])
    scale = _scale(scale)
    with full_precision(logits):
        margins = (ldam_margins(n, max_margin).to(z) * scale).to(z)
        lowered = z - F.one_hot(y, z.shape[1]).to(z) * margins
        return _weighted(lowered, y, effective_number_weights(n, beta)) * valid


def _scale(scale: float | Tensor) -> float | Tensor:
    if not isinstance(scale, Tensor):
        return number("scale", scale, least=0)
    if scale.numel() != 1:
        raise ConfigError(f"scale must be one number, got a tensor {shape_of(scale)}")
    if scale.device.type == "cpu":
        number("scale", scale.item(), least=0)
    return scale


def _weighted(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    own = F.cross_entropy(logits, labels, reduction="none")
    return (weights.to(logits)[labels] * own).mean()


def _images(counts: Numbers) -> Tensor:
    """Counts in float64, at least 1."""
    return class_numbers(counts, "counts").clamp_min(1)


def _counts(counts: Numbers, logits: Tensor) -> Tensor:
    return of_each_class(counts, "counts", logits, logits.shape[1])


def _logits(logits: Tensor) -> Tensor:
    """The logits in at least float32."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.numel() or not logits.is_floating_point():
        found = f"{shape_of(logits)}, {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise FeatureError(f"logits must be a floating-point tensor (B, K) without a zero, got {found}")
    return logits.to(working_dtype(logits))
