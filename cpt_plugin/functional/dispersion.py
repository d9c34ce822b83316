"""DAPT's two losses: spread the text features of the classes, tighten the image features around prototypes."""

from __future__ import annotations

import torch
from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.functional._checks import Labels, check_class_rows, check_image, check_text, class_indices
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype


def inter_dispersion(text: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Mean Gaussian potential of all pairs of unit text features; small where the classes are spread.

    .. math::
        L = \frac{2}{K(K-1)} \sum_{j < k} \exp(-\tau \lVert \bar t_j - \bar t_k \rVert_2^2)

    with t_k the text feature of class k, barred when scaled to length 1, and tau the ``temperature``.

    Args:
        text: (K, d), or (B, K, d) for per-image text features, which are averaged over B; any length. A zero vector
            stays zero: its distance to a unit vector is 1, to another zero vector 0.
        temperature: tau, finite and > 0.

    Returns:
        Scalar in exp(-4 tau) .. 1, float32 or float64: 1 where all features coincide, exp(-2 tau (1 + 1/(K-1))) for a
        simplex ETF, 0 for a single class, which has no pair. Memory is O(K^2).

    Raises:
        FeatureError: shape or type does not fit.
        ConfigError: the temperature is not finite or not positive.

    Source: DAPT (ICCV 2023, arXiv 2309.03406), inter-dispersion loss as released (no logarithm).
    """
    check_text(text)
    temperature = number("temperature", temperature, above=0)
    classes = text.shape[-2]
    with full_precision(text):
        units = unit(text, working_dtype(text))
        halves = (units != 0).any(-1).to(units) / 2  # of the squared lengths, 1 or 0
        gaps = units @ units.mT - (halves.unsqueeze(-1) + halves.unsqueeze(-2))  # -||t_j - t_k||^2 / 2
        factor = min(2 * temperature, torch.finfo(units.dtype).max)
        potential = torch.exp(factor * gaps.clamp_max(0))
        off_diagonal = ~torch.eye(classes, dtype=torch.bool, device=text.device)
        return (potential * off_diagonal).sum() / max(1, potential.numel() - potential[..., 0].numel())


def intra_dispersion(image: Tensor, prototypes: Tensor, labels: Labels) -> Tensor:
    r"""Mean squared distance, over samples and dimensions, of unit image features to their class's prototype.

    .. math::
        L = \frac{1}{B d} \sum_i \lVert \bar f_i - s_{y_i} \rVert_2^2

    with f_i the image feature of sample i, barred when scaled to length 1, y_i its label, d the feature dimension and
    s_c the prototype of class c: the mean of unit features of frozen CLIP, not scaled again.

    Args:
        image: (B, d) image features of any length.
        prototypes: (K, d); :class:`~cpt_plugin.regularizers.dapt.DAPT` gives them without gradient.
        labels: (B,) whole numbers in 0 .. K-1, a tensor of any integer type, an array or a list; on a CPU they are
            checked, elsewhere one out of range gives NaN.

    Returns:
        Scalar in 0 .. 4 / d, float32 or float64.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.

    Source: DAPT (ICCV 2023, arXiv 2309.03406), intra-dispersion loss as released.
    """
    check_class_rows(prototypes, "prototypes")
    check_image(image, prototypes, "prototypes")
    index, validity = class_indices(labels, image, "image", len(prototypes))
    with full_precision(image):
        dtype = working_dtype(image, prototypes)
        distances = unit(image, dtype) - prototypes.to(dtype).index_select(0, index)
        return distances.square().mean() * validity.to(dtype)
