"""CPT: local ETF separation, class convergence, rotation stabilization (CVPR 2026, arXiv 2605.11939)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from statistics import median

from torch import Tensor

from cpt_plugin._numbers import number, whole
from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import ClusterBuckets, class_convergence, etf_separation, rotation_stabilization
from cpt_plugin.functional._checks import check_frozen, check_labels, check_text
from cpt_plugin.functional.etf import REDUCTIONS
from cpt_plugin.functional.rotation import live_fraction
from cpt_plugin.regularizers._checks import check_choice
from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register

PARTS = ("etf", "cc", "rs")
WEIGHTINGS = ("printed", "balanced")
DEVELOPED = 0.9


@register
class CPT(Regularizer):
    r"""Cluster-aware neural collapse for text prototypes.

    .. math::
        L = w_{etf} L_{TETF} + w_{cc} L_{CC} + w_{rs} L_{RS}

    with the terms of :func:`~cpt_plugin.functional.etf_separation` (over the semantic clusters of the frozen
    text features), :func:`~cpt_plugin.functional.class_convergence` and
    :func:`~cpt_plugin.functional.rotation_stabilization`. The parts are named "etf", "cc" and "rs"; a term of
    weight 0 is not computed, and without the first no clusters are made. Everything is computed in float32 or
    wider, outside autocast.

    Args:
        weight_etf, weight_cc, weight_rs: weights, finite and >= 0.
        etf_reduction: "frobenius" (as printed) or "pair_mean".
        cluster_size: classes per cluster aimed at; M = max(1, ceil(K / cluster_size)).
        num_clusters: M; 0 derives it from cluster_size.
        cluster_seed: seed of the k-means, independent of the training seed.
        template: sentence for the frozen text features; CPTHook hands it to the trainer that encodes them.
        weighting: "printed" (weight_...), or "balanced": in place of the weights, each term is scaled so that its
            gradient on the prompts is rho_... times as long as the main loss's (:mod:`cpt_plugin.hook.balance`).
        rho_etf, rho_cc, rho_rs: these fractions, finite and >= 0; a term of fraction 0 is not computed.
        rho_momentum: in 0 .. 1; 1 measures the gradients once, less keeps running averages of their lengths.
            "" is the data set's own.

    Raises:
        ConfigError: a setting is out of range.

    Source: CPT (CVPR 2026, arXiv 2605.11939).
    """

    name = "cpt"
    paper = "CPT, CVPR 2026 (arXiv 2605.11939)"
    description = "local simplex ETFs in semantic clusters, class convergence, rotation stabilization"
    config_node = "CPT"

    def __init__(
        self,
        weight_etf: float = 0.25,
        weight_cc: float = 0.15,
        weight_rs: float = 0.10,
        etf_reduction: str = "frobenius",
        cluster_size: int = 16,
        num_clusters: int = 0,
        cluster_seed: int = 0,
        template: str = "",
        weighting: str = "printed",
        rho_etf: float = 0.03,
        rho_cc: float = 0.3,
        rho_rs: float = 0.3,
        rho_momentum: float = 1.0,
    ) -> None:
        node = self.config_node
        self.weights = _checked(f"{node}.WEIGHT", (weight_etf, weight_cc, weight_rs))
        fractions = _checked(f"{node}.RHO", (rho_etf, rho_cc, rho_rs))
        rho_momentum = number(f"{node}.RHO_MOMENTUM", rho_momentum, least=0, most=1)
        if check_choice(f"{node}.WEIGHTING", weighting, WEIGHTINGS) == "balanced":
            self.gradient_fractions = {part: rho for part, rho in fractions.items() if rho > 0}
            self.gradient_momentum = rho_momentum
            self.weights = {part: float(part in self.gradient_fractions) for part in PARTS}
        self.etf_reduction = check_choice(f"{node}.ETF_REDUCTION", etf_reduction, REDUCTIONS)
        self.cluster_size = whole(f"{node}.CLUSTER_SIZE", cluster_size, 1)
        self.num_clusters = whole(f"{node}.NUM_CLUSTERS", num_clusters, 0)
        self.cluster_seed = whole(f"{node}.CLUSTER_SEED", cluster_seed, 0)
        self.template = template
        self.clusters: SemanticClusters | None = None
        self._buckets: ClusterBuckets | None = None
        self._frozen_text: Tensor | None = None
        self._class_names: tuple[str, ...] = ()
        self._labels_checked = False

    @property
    def active(self) -> bool:
        """Whether any weight is above 0."""
        return any(weight > 0 for weight in self.weights.values())

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        """Cluster the classes and keep the frozen features.

        Args:
            frozen_text: (K, d) text features of frozen CLIP, raw, in label order.
            class_names: K names in label order.

        Raises:
            ClusterError: the classes cannot be clustered.
            FeatureError: the features are not (K, d) with one name each.
        """
        check_text(frozen_text, "frozen_text")
        if frozen_text.shape[:-1] != (len(class_names),):
            raise FeatureError(
                f"frozen_text {tuple(frozen_text.shape)} must be (K, d), K = {len(class_names)} class names"
            )
        self._frozen_text = frozen_text.detach().clone()
        self._class_names = tuple(class_names)
        self._labels_checked = False
        self.clusters = self._buckets = None
        if self.weights["etf"] > 0:
            self.clusters = SemanticClusters.fit(
                frozen_text, class_names, self.num_clusters or None, self.cluster_size, self.cluster_seed
            )
            self._buckets = ClusterBuckets.from_assignment(self.clusters.assignment)

    def constant_parts(self) -> set[str]:
        """Return "etf" where every cluster holds one class."""
        return {"etf"} if self._buckets is not None and not self._buckets.blocks else set()

    def remedy_of_constant_part(self, part: str) -> str:
        """Return how clusters get more than one class."""
        if self.num_clusters:
            return f"form clusters of more than one class with a smaller {self.config_node}.NUM_CLUSTERS"
        return f"form clusters of more than one class with a larger {self.config_node}.CLUSTER_SIZE"

    def digest(self) -> str:
        """Return the hash of the cluster map, or of the class names where there are no clusters."""
        if self.clusters is not None:
            return self.clusters.digest
        if not self._class_names:
            return ""
        return hashlib.sha256(json.dumps(self._class_names, ensure_ascii=False).encode()).hexdigest()

    def describe(self) -> list[str]:
        """Return log lines on the weights, the clusters and what is unusual about them."""
        stated = self.gradient_fractions or self.weights
        means = "gradients as fractions of the main loss's:" if self.gradient_fractions else "weights"
        shown = ", ".join(f"{part} {number:g}" for part, number in stated.items())
        lines = [f"CPT: {means} {shown}; ETF reduction {self.etf_reduction}"]
        if self.clusters is None or self._frozen_text is None:
            return lines
        clusters, (num_classes, width) = self.clusters, self._frozen_text.shape
        sizes = clusters.sizes
        lines.append(
            f"CPT: {clusters.num_clusters} clusters over {num_classes} classes, "
            f"sizes min {min(sizes)} / median {median(sizes):g} / max {max(sizes)}, "
            f"k-means objective {clusters.objective:.4f}, map {clusters.digest[:12]}"
        )
        if clusters.num_clusters == 1:
            lines.append(f"CPT: one cluster holds all {num_classes} classes: the ETF is global, not local")
        if max(sizes) > width + 1:
            lines.append(f"CPT: {max(sizes)} classes cannot form a simplex ETF in {width} dimensions")
        if clusters.dropped:
            lines.append(f"CPT: {clusters.dropped} clusters ended empty (duplicate features), dropped")
        if 1 in sizes:
            lines.append(f"CPT: {sizes.count(1)} clusters hold one class and add nothing to the ETF term")
        return lines

    def compute(self, batch: FeatureBatch) -> Parts:
        """Return the weighted parts of positive weight; see :class:`FeatureBatch` for the shapes.

        The first batch after `prepare` also has its labels checked on whatever device they are.

        Raises:
            FeatureError: `prepare` was not called, or the batch does not fit the prepared classes.
        """
        frozen_text = self._on_device_of(batch.text)
        parts: Parts = {}
        if self.weights["etf"] > 0 and self._buckets is not None:
            parts["etf"] = self.weights["etf"] * self._separation(batch.text, self._buckets)
        if self.weights["cc"] > 0:
            parts["cc"] = self.weights["cc"] * class_convergence(batch.image, batch.text, batch.labels)
            if not self._labels_checked:
                check_labels(batch.labels, len(self._class_names))
                self._labels_checked = True
        if self.weights["rs"] > 0:
            parts["rs"] = self.weights["rs"] * self._rotation(batch.text, frozen_text)
        return parts

    def _separation(self, text: Tensor, buckets: ClusterBuckets) -> Tensor:
        return etf_separation(text, buckets, self.etf_reduction)

    def _rotation(self, text: Tensor, frozen_text: Tensor) -> Tensor:
        return rotation_stabilization(text, frozen_text)

    def undeveloped(self, batch: FeatureBatch) -> set[str]:
        """Return "rs" while fewer than 9 in 10 components are out of the dead zone of its derivative.

        So it is where prompts start at the template. A weight from the norm that the few others give would be too
        large, by 85 times in a run on the embedded world, a few steps later.
        """
        if "rs" not in self.gradient_fractions:
            return set()
        live = live_fraction(batch.text, self._on_device_of(batch.text))
        return set() if live.item() >= DEVELOPED else {"rs"}

    def _on_device_of(self, text: Tensor) -> Tensor:
        """Move the prepared tensors to the text's device once, and return the frozen features."""
        if self._frozen_text is None:
            raise FeatureError("CPT.compute was called before CPT.prepare(frozen_text, class_names)")
        check_text(text)
        if self._frozen_text.device != text.device:
            self._frozen_text = self._frozen_text.to(text.device)
        if self._buckets is not None:
            self._buckets = self._buckets.to(text.device)
        check_frozen(self._frozen_text, text)
        return self._frozen_text


def _checked(key: str, numbers: Sequence[float]) -> dict[str, float]:
    """Weights or fractions by part, each finite and >= 0."""
    return {part: number(f"{key}_{part.upper()}", value, least=0) for part, value in zip(PARTS, numbers, strict=True)}
