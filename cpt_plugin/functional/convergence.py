"""Convergence of image features to their class's text prototype: the L_CC term of CPT."""

from __future__ import annotations

import torch
from torch import Tensor

from cpt_plugin.errors import ConfigError
from cpt_plugin.functional._checks import Labels, check_image, check_text, class_indices
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype

AVERAGES = ("class", "sample")


def class_convergence(image: Tensor, text: Tensor, labels: Labels, average: str = "class") -> Tensor:
    r"""Mean squared distance of unit image features to the unit text feature of their class.

    .. math::
        L = \frac{1}{|C|} \sum_{c \in C} \frac{1}{N_c} \sum_{i: y_i = c} \lVert \bar f_i - \bar g_c \rVert_2^2

    with C the classes present in the batch, N_c the number of its samples of class c, y_i the label, f_i the
    image feature and g_c the text feature, barred when scaled to length 1. A class counts once,
    however many samples it has. With ``average="sample"`` it is the plain mean over the samples instead.

    Labels on a CPU are checked at every call. On another device a check would wait for the device at every
    step; there a label out of range turns the loss into NaN (no device assertion, so the process survives),
    which every training loop that looks at its loss stops at; :class:`~cpt_plugin.regularizers.cpt.CPT` in
    addition checks the first batch by name.

    Args:
        image: (B, d) image features of any length.
        text: (K, d), or (B, K, d) for per-image text features.
        labels: (B,) whole numbers in 0 .. K-1: a tensor of any integer type, an array, a list.
        average: "class" or "sample".

    Returns:
        Scalar in 0 .. 4 (it equals 2 - 2 cos), in float32, or float64 if an input is float64.

    Raises:
        FeatureError: shapes, types or devices do not fit, or a label on the CPU is out of range.
        ConfigError: the average is unknown.

    Source: CPT (CVPR 2026), loss L_CC; the restriction to classes present in the batch is ours.

    Example:
        >>> class_convergence(torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.tensor([0, 1]))
        tensor(2.)
    """
    if average not in AVERAGES:
        raise ConfigError(f"unknown average {average!r}; use one of {', '.join(AVERAGES)}")
    check_text(text)
    check_image(image, text)
    num_classes = text.shape[-2]
    index, validity = class_indices(labels, image, "image", num_classes)
    with full_precision(text):
        prototypes = _of_own_class(text, index)
        dtype = working_dtype(image, text)
        distances = (unit(image, dtype) - unit(prototypes, dtype)).square().sum(dim=-1)
        if average == "sample":
            return distances.mean() * validity.to(dtype)
        counts = distances.new_zeros(num_classes).index_add(0, index, torch.ones_like(distances))
        present = (counts > 0).sum()
        return (distances / counts.index_select(0, index)).sum() / present * validity.to(distances.dtype)


def _of_own_class(text: Tensor, index: Tensor) -> Tensor:
    """Pick from (K, d) or (B, K, d) text the (B, d) features of each sample's class."""
    if text.ndim == 2:
        return text.index_select(0, index)
    rows = torch.arange(len(index), device=index.device) * text.shape[1] + index
    return text.flatten(0, 1).index_select(0, rows)
