"""Loss functions: tensors in, a scalar out, no state. Raw features go in; normalization happens inside."""

from cpt_plugin.functional.anchoring import nearest_simplex, text_anchoring
from cpt_plugin.functional.convergence import class_convergence
from cpt_plugin.functional.dispersion import inter_dispersion, intra_dispersion
from cpt_plugin.functional.etf import ClusterBuckets, etf_separation
from cpt_plugin.functional.long_tail_losses import (
    balanced_softmax,
    class_balanced,
    focal,
    ldam,
    logit_adjustment,
    posthoc_adjustment,
)
from cpt_plugin.functional.neural_collapse import isomorphism_degree, language_collapse_degree
from cpt_plugin.functional.rotation import rotation_stabilization
from cpt_plugin.functional.variants import (
    class_weights,
    gaussian_anchoring,
    pair_separation,
    schedule_factor,
    squared_rotations,
    weighted_rotation,
)

__all__ = [
    "ClusterBuckets",
    "balanced_softmax",
    "class_balanced",
    "class_convergence",
    "class_weights",
    "etf_separation",
    "focal",
    "gaussian_anchoring",
    "inter_dispersion",
    "intra_dispersion",
    "isomorphism_degree",
    "language_collapse_degree",
    "ldam",
    "logit_adjustment",
    "nearest_simplex",
    "pair_separation",
    "posthoc_adjustment",
    "rotation_stabilization",
    "schedule_factor",
    "squared_rotations",
    "text_anchoring",
    "weighted_rotation",
]
