"""Text features near fixed points: frozen CLIP's, or the vertices of a simplex."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cpt_plugin.errors import FeatureError
from cpt_plugin.functional._checks import check_class_rows, check_frozen, check_text, shape_of
from cpt_plugin.functional._normalize import full_precision, unit, working_dtype


def text_anchoring(text: Tensor, anchors: Tensor) -> Tensor:
    r"""Mean squared distance of unit text features to unit anchors.

    .. math::
        L = \frac{1}{K} \sum_{c=1}^{K} \lVert \bar g_c - \bar a_c \rVert_2^2 = \frac{2}{K} \sum_c (1 - \cos(g_c, a_c))

    with g_c the text feature of class c of K and a_c its anchor, barred when scaled to length 1.

    Args:
        text: (K, d), or (B, K, d) for per-image text features, which are averaged over B; any length.
        anchors: (K, d) in the same class order; constants, no gradient flows to them.

    Returns:
        Scalar in 0 .. 4, in float32, or float64 if an input is float64.

    Raises:
        FeatureError: shapes, types or devices do not fit.

    Source: KgCoOp (CVPR 2023, arXiv 2303.13283), whose anchors are frozen CLIP's text features.

    Example:
        >>> text_anchoring(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 0.0]]))
        tensor(2.)
    """
    check_text(text)
    check_frozen(anchors, text, "anchors")
    with full_precision(text):
        dtype = working_dtype(text, anchors)
        difference = unit(text, dtype) - unit(anchors.detach(), dtype)
        return difference.square().sum(-1).mean()


def nearest_simplex(features: Tensor) -> Tensor:
    r"""The simplex ETF whose vertices are nearest to unit features.

    .. math::
        E = \sqrt{K / (K-1)} \, B \, U V^\top, \quad U \Sigma V^\top = B^\top \bar G

    (thin singular value decomposition; B (K, K - 1) with orthonormal columns of sum 0, G the features as rows, barred
    when scaled to length 1): of all matrices whose rows are unit vectors with pairwise cosines -1 / (K - 1), the one
    that maximizes the sum of cosines between its rows and those of G (orthogonal Procrustes problem). For one class,
    the unit feature itself.

    Args:
        features: (K, d) of any length, K - 1 <= d.

    Returns:
        (K, d) unit rows, in float32, or float64 if the features are.

    Raises:
        FeatureError: not (K, d), not finite, or K - 1 > d.

    Source: the ETF is Papyan et al. (PNAS 2020); the rotation is ours.
    """
    check_class_rows(features, "features")
    classes, width = features.shape
    if classes - 1 > width:
        raise FeatureError(f"features {shape_of(features)}: no simplex of {classes} vertices in {width} dimensions")
    if not features.isfinite().all():
        raise FeatureError(f"features {shape_of(features)} hold NaN or infinity; check the encoder and its precision")
    dtype = working_dtype(features)
    rows = unit(features.detach(), torch.float64)
    if classes == 1:
        return rows.to(dtype)
    basis = _centered_basis(classes).to(rows.device)
    left, _, right = torch.linalg.svd(basis.t() @ rows, full_matrices=False)
    return (math.sqrt(classes / (classes - 1)) * basis @ left @ right).to(dtype)


def _centered_basis(classes: int) -> Tensor:
    """(K, K - 1) orthonormal columns that span the vectors of sum 0 (Helmert's), so basis basis^T = I - J / K."""
    columns = torch.triu(torch.ones(classes, classes - 1, dtype=torch.float64))
    size = torch.arange(1, classes, dtype=torch.float64)
    columns[torch.arange(1, classes), torch.arange(classes - 1)] = -size
    return columns / (size * (size + 1)).sqrt()
