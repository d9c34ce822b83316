"""Degrees of neural collapse of NPT: how far text and image features are from one shared simplex ETF.

NPT (KDD 2024, arXiv 2306.15955) names the degrees Delta_LCD and Delta_MID; its definitions are not public. What
stands here is **our reconstruction** after the neural-collapse literature (NC2 and NC3), in two usual forms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cpt_plugin.errors import ConfigError, FeatureError
from cpt_plugin.functional._checks import check_frozen, check_text, shape_of
from cpt_plugin.functional._normalize import full_precision, safely_scaled, unit, working_dtype

FORMS = ("cosine", "frobenius")
_ROUNDING = 64  # centered rows below so many units of rounding are taken for zero


def language_collapse_degree(text: Tensor, form: str = "cosine", centered: bool = True) -> Tensor:
    r"""Delta_LCD, our reconstruction: distance of the text features from a simplex ETF; smaller is more collapsed.

    .. math::
        \text{cosine: } \frac{1}{K(K-1)} \sum_{j \ne k} \Big| \cos(\tilde t_j, \tilde t_k) + \frac{1}{K-1} \Big|
        \qquad
        \text{frobenius: } \Big\lVert \frac{T T^\top}{\lVert T T^\top \rVert_F}
        - \frac{I - J/K}{\sqrt{K-1}} \Big\rVert_F

    with K classes, t_k the unit text feature of class k, t~_k = (t_k - mean_j t_j) scaled to length 1 (t_k itself
    for ``centered=False``), T the matrix of rows t~_k, I the identity and J the matrix of ones.

    Args:
        text: (K, d) text features of any length, K >= 2.
        form: "cosine" (range 0 .. 1 + 1/(K-1)) or "frobenius" (range 0 .. 2).
        centered: take the mean over classes off first.

    Returns:
        Scalar without gradient, in float32, or float64 for float64 features; 0 for an exact simplex ETF. A feature that
        equals the mean up to rounding has no direction and counts as a zero vector (cosine 0 with all): where all
        features coincide, the centered degree is 1 / (K-1) (cosine) or 1 (frobenius). Two features are
        always opposite after centering: for K = 2 the centered degree is 0 unless they coincide. Memory is O(K^2).

    Raises:
        FeatureError: not (K, d) with K >= 2.
        ConfigError: the form is unknown.

    Source: quantity named in NPT (KDD 2024); formula ours, after NC2 (Papyan, Han, Donoho, PNAS 2020).
    """
    _check(text, form)
    with torch.no_grad(), full_precision(text):
        rows = _directions(unit(text, working_dtype(text)), centered)
        if form == "frobenius":
            return _frobenius_gap(rows, rows)
        classes = len(rows)
        gaps = (rows @ rows.T + 1 / (classes - 1)).abs()
        return (gaps.sum() - gaps.diagonal().sum()) / (classes * (classes - 1))


def isomorphism_degree(class_means: Tensor, text: Tensor, form: str = "cosine", centered: bool = True) -> Tensor:
    r"""Delta_MID, our reconstruction: how far class means of image features are from their text features' directions.

    .. math::
        \text{cosine: } 1 - \frac{1}{K} \sum_k \cos(\tilde v_k, \tilde t_k)
        \qquad
        \text{frobenius: } \Big\lVert \frac{T V^\top}{\lVert T V^\top \rVert_F}
        - \frac{I - J/K}{\sqrt{K-1}} \Big\rVert_F

    with v~_k = (mu_k - mean_j mu_j) scaled to length 1, mu_k the mean of the unit image features of class k, V the
    matrix of rows v~_k, and t~_k, T, I, J as in :func:`language_collapse_degree`.

    Args:
        class_means: (K, d) means of unit image features, K >= 2; not scaled to length 1.
        text: (K, d) text features of the same classes, any length.
        form: "cosine" (range 0 .. 2) or "frobenius" (range 0 .. 2).
        centered: take the means over classes off first.

    Returns:
        Scalar without gradient, in float32, or float64 if an input is float64; 0 at perfect collapse. Rows without a
        direction count as in :func:`language_collapse_degree`: where all features of a side coincide, both centered
        forms are 1.

    Raises:
        FeatureError: shapes or devices do not fit, or K < 2.
        ConfigError: the form is unknown.

    Source: quantity named in NPT (KDD 2024); formula ours, after NC3 (Papyan, Han, Donoho, PNAS 2020).
    """
    _check(text, form)
    check_frozen(class_means, text, "class_means")
    with torch.no_grad(), full_precision(text):
        dtype = working_dtype(class_means, text)
        texts = _directions(unit(text, dtype), centered)
        images = _directions(class_means.to(dtype), centered)
        if form == "frobenius":
            return _frobenius_gap(texts, images)
        return 1 - (texts * images).sum(-1).mean()


def _check(text: Tensor, form: str) -> None:
    if form not in FORMS:
        raise ConfigError(f"unknown form {form!r}; use one of {', '.join(FORMS)}")
    check_text(text)
    if text.ndim != 2 or len(text) < 2:
        raise FeatureError(f"text must be (K, d) with at least two classes, got {shape_of(text)}")


def _directions(rows: Tensor, centered: bool) -> Tensor:
    if not centered:
        return unit(rows, rows.dtype)
    rows = safely_scaled(rows)
    noise = _ROUNDING * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows, dim=1).max()
    offsets = rows - rows.mean(0)
    far = torch.linalg.vector_norm(offsets, dim=1, keepdim=True) > noise
    return unit(torch.where(far, offsets, 0.0), rows.dtype)


def _frobenius_gap(left: Tensor, right: Tensor) -> Tensor:
    classes = len(left)
    products = left @ right.T
    norm = torch.linalg.matrix_norm(products)
    ideal = (torch.eye(classes, dtype=left.dtype, device=left.device) - 1 / classes) / (classes - 1) ** 0.5
    return torch.linalg.matrix_norm(products / torch.where(norm > 0, norm, 1.0) - ideal)
