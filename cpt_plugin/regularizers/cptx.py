"""Balanced CPT with options of our own (ours): schedule, weights by class counts, frozen targets, learned radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cpt_plugin._numbers import number
from cpt_plugin.errors import FeatureError
from cpt_plugin.functional import ClusterBuckets
from cpt_plugin.functional.variants import (
    SCHEDULES,
    class_weights,
    gaussian_anchoring,
    pair_separation,
    schedule_factor,
    squared_rotations,
    weighted_rotation,
)
from cpt_plugin.regularizers._checks import check_choice
from cpt_plugin.regularizers.base import FeatureBatch, register
from cpt_plugin.regularizers.cptb import CPTB

TARGETS = ("simplex", "frozen")
RADII = ("none", "learned")
RADIUS_MOMENTUM = 0.9
RADIUS_FLOOR = 1e-4


@register
class CPTX(CPTB):
    r"""Balanced CPT whose terms can change with time, class and geometry; with the defaults it is :class:`CPTB`.

    Args:
        rho_etf, rho_cc, rho_rs, rho_momentum, etf_reduction, cluster_size, num_clusters, cluster_seed, template: as in
            :class:`CPTB`.
        schedule: "constant", or the balanced weights are multiplied by (1 + cos(pi p)) / 2 ("falling") or
            (1 - cos(pi p)) / 2 ("rising"), p in [0, 1) the finished part of the training. The balance measures the
            terms without this factor.
        class_power: a >= 0; 0 is off. Class c of n_c training images (at least 1) weighs v_c = n_c^-a over the mean of
            n_k^-a over all classes, in the rotation term, and pair (i, j) weighs (v_i + v_j) / 2 in the separation.
            The convergence term stays as it is. Balancing acts on top: it sets the length of the whole term's gradient.
        etf_target: "simplex", or "frozen": the target cosine of a pair is its cosine in frozen CLIP less the margin,
            at least -1.
        margin: >= 0.
        rs_radius: "none", or "learned": the rotation term is
            :func:`~cpt_plugin.functional.gaussian_anchoring` with r_c^2 = a_c + 1e-4, where a_c is the running average
            (momentum 0.9, this step included, the first step's value at the start) of the squared distance d_c^2 of
            class c. Its gradient is about d_c / r_c^2, so that a class that moves much is held loosely; it grows with
            d_c until d_c is about 0.01, and falls from there on. The part waits (see :meth:`undeveloped`) for
            the mean of d_c^2 to reach 1e-4. Every forward that is trained on counts, a step that AMP skips too.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "cptx"
    paper = "CPT, CVPR 2026 (arXiv 2605.11939), with balanced weights and variants of our own"
    description = "balanced CPT with a schedule, class weights, frozen targets or learned radii, all off by default"
    config_node = "CPTX"

    def __init__(
        self,
        rho_etf: float = 0.03,
        rho_cc: float = 0.3,
        rho_rs: float = 0.3,
        rho_momentum: float = 1.0,
        etf_reduction: str = "frobenius",
        cluster_size: int = 16,
        num_clusters: int = 0,
        cluster_seed: int = 0,
        template: str = "",
        schedule: str = "constant",
        class_power: float = 0.0,
        etf_target: str = "simplex",
        margin: float = 0.1,
        rs_radius: str = "none",
    ) -> None:
        super().__init__(
            rho_etf,
            rho_cc,
            rho_rs,
            rho_momentum,
            etf_reduction,
            cluster_size,
            num_clusters,
            cluster_seed,
            template,
        )
        node = self.config_node
        self.schedule = check_choice(f"{node}.SCHEDULE", schedule, SCHEDULES)
        self.class_power = number(f"{node}.CLASS_POWER", class_power, least=0)
        self.etf_target = check_choice(f"{node}.ETF_TARGET", etf_target, TARGETS)
        self.margin = number(f"{node}.MARGIN", margin, least=0)
        self.rs_radius = check_choice(f"{node}.RS_RADIUS", rs_radius, RADII)
        self.needs_progress = schedule != "constant"
        self.needs_counts = self.class_power > 0
        self._class_weights: Tensor | None = None
        self._averages: Tensor | None = None

    def prepare(self, frozen_text: Tensor, class_names: Sequence[str]) -> None:
        """As :meth:`CPT.prepare`; class weights and radii are made anew."""
        super().prepare(frozen_text, class_names)
        self._class_weights = self._averages = None

    def prepare_counts(self, counts: Tensor) -> None:
        """Make the class weights from (K,) numbers of training images."""
        self._class_weights = class_weights(counts, self.class_power)

    def describe(self) -> list[str]:
        """Return the lines of :class:`CPT`, and one on the options that are not at their defaults."""
        options = {
            "schedule": self.schedule if self.needs_progress else "",
            "class power": f"{self.class_power:g}" if self.needs_counts else "",
            "targets": f"frozen cosines less {self.margin:g}" if self.etf_target == "frozen" else "",
            "radii": "learned" if self.rs_radius == "learned" else "",
        }
        shown = ", ".join(f"{name} {value}" for name, value in options.items() if value)
        if self._class_weights is not None:
            shown += f" (class weights {self._class_weights.min():.3g} .. {self._class_weights.max():.3g})"
        return [*super().describe(), *([f"CPTX: {shown}"] if shown else [])]

    def strength(self, batch: FeatureBatch) -> float:
        """Return the schedule's factor."""
        return schedule_factor(self.schedule, batch.progress)

    def undeveloped(self, batch: FeatureBatch) -> set[str]:
        """As :meth:`CPT.undeveloped`; with learned radii, "rs" while the mean of d_c^2 is below the radii's floor.

        There the gradient still grows with the distance, and a weight from it would soon be too large.
        """
        if self.rs_radius == "none" or "rs" not in self.gradient_fractions:
            return super().undeveloped(batch)
        with torch.no_grad():
            squares = squared_rotations(batch.text, self._on_device_of(batch.text))
        return set() if squares.mean().item() >= RADIUS_FLOOR else {"rs"}

    def state_dict(self) -> dict[str, list[float]]:
        """Running averages a_c of the squared distances, once there are any."""
        return {} if self._averages is None else {"squared_distances": self._averages.tolist()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with these averages."""
        averages = state.get("squared_distances")
        self._averages = None if averages is None else torch.tensor(averages, dtype=torch.float64)

    def _separation(self, text: Tensor, buckets: ClusterBuckets) -> Tensor:
        if self.etf_target == "simplex" and not self.needs_counts:
            return super()._separation(text, buckets)
        frozen = self._frozen_text if self.etf_target == "frozen" else None
        return pair_separation(text, buckets, self.etf_reduction, self._weights_of(text), frozen, self.margin)

    def _rotation(self, text: Tensor, frozen_text: Tensor) -> Tensor:
        weights = self._weights_of(text)
        if self.rs_radius == "learned":
            return gaussian_anchoring(text, frozen_text, self._squared_radii(text, frozen_text), weights)
        if weights is not None:
            return weighted_rotation(text, frozen_text, weights)
        return super()._rotation(text, frozen_text)

    def _weights_of(self, text: Tensor) -> Tensor | None:
        if not self.needs_counts:
            return None
        if self._class_weights is None:
            raise FeatureError("CPTX.compute was called before CPTX.prepare_counts(counts), which CLASS_POWER needs")
        self._class_weights = self._class_weights.to(text.device)
        return self._class_weights

    def _squared_radii(self, text: Tensor, frozen_text: Tensor) -> Tensor:
        with torch.no_grad():
            now = squared_rotations(text, frozen_text).double()
            old = now if self._averages is None else self._averages.to(text.device)
            self._averages = RADIUS_MOMENTUM * old + (1 - RADIUS_MOMENTUM) * now
            return self._averages + RADIUS_FLOOR
