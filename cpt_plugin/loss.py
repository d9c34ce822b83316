"""The CPT losses for a training loop of one's own, without a trainer or a hook."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.functional._checks import Labels
from cpt_plugin.regularizers.base import FeatureBatch, Parts, checked_parts, total
from cpt_plugin.regularizers.cpt import CPT


class CPTLoss(nn.Module):
    r"""Weighted sum of the CPT terms, to be added to a classification loss.

    .. math::
        L = w_{etf} L_{TETF} + w_{cc} L_{CC} + w_{rs} L_{RS}

    (terms in :mod:`cpt_plugin.functional`). The module has no parameters and nothing to save: clusters and
    anchor follow from the arguments. It works on the device of the features it is called with.

    Features may have any length; zero vectors stay zero. NaN features give NaN: one with NaN or infinity makes every
    term that reads it NaN, and so the total, as in torch's losses. It is the training loop that has to look.

    Args:
        frozen_text: (K, d) text features of frozen CLIP in label order, of any length.
        class_names: K names in label order.
        weight_etf, weight_cc, weight_rs: weights, >= 0; a term of weight 0 is not computed.
        etf_reduction: "frobenius" (as printed) or "pair_mean".
        cluster_size: classes per cluster aimed at; M = max(1, ceil(K / cluster_size)).
        num_clusters: M; 0 derives it from cluster_size.
        cluster_seed: seed of the k-means.

    Raises:
        ConfigError: a weight or option is out of range.
        ClusterError, FeatureError: features and names cannot be clustered.

    Source: CPT (CVPR 2026, arXiv 2605.11939).

    Example:
        >>> import torch
        >>> loss = CPTLoss(torch.eye(3), ["cat", "dog", "car"])
        >>> total, parts = loss(image=torch.eye(3), text=torch.eye(3), labels=torch.arange(3))
        >>> sorted(parts)
        ['cc', 'etf', 'rs']
        >>> round(total.item(), 4)  # 0.25 * 6 pairs * (0 + 1/2)^2
        0.375
    """

    def __init__(
        self,
        frozen_text: Tensor,
        class_names: Sequence[str],
        weight_etf: float = 0.25,
        weight_cc: float = 0.15,
        weight_rs: float = 0.10,
        etf_reduction: str = "frobenius",
        cluster_size: int = 16,
        num_clusters: int = 0,
        cluster_seed: int = 0,
    ) -> None:
        super().__init__()
        self.regularizer = CPT(
            weight_etf, weight_cc, weight_rs, etf_reduction, cluster_size, num_clusters, cluster_seed
        )
        self.regularizer.prepare(frozen_text, class_names)

    @property
    def clusters(self) -> SemanticClusters | None:
        """The semantic clusters, None where the ETF term has weight 0."""
        return self.regularizer.clusters

    def forward(self, *, image: Tensor, text: Tensor, labels: Labels) -> tuple[Tensor, Parts]:
        """Return the total and its detached weighted parts.

        Args:
            image: (B, d) image features.
            text: (K, d), or (B, K, d) where they depend on the image.
            labels: (B,) whole numbers in 0 .. K-1: a tensor of any integer type, an array or a list.

        Raises:
            FeatureError: shapes, types or devices do not fit, or a label is out of range.
        """
        batch = FeatureBatch(text, image, labels)  # type: ignore[arg-type]  # which makes a tensor of the labels
        parts = checked_parts(self.regularizer, self.regularizer.compute(batch))
        return total(parts, text), {name: value.detach() for name, value in parts.items()}

    def extra_repr(self) -> str:
        """Describe weights and clusters when the module is printed."""
        return "\n".join(self.regularizer.describe())
