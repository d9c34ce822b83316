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

__all__ = [
    "ClusterBuckets",
    "balanced_softmax",
    "class_balanced",
    "class_convergence",
    "etf_separation",
    "focal",
    "inter_dispersion",
    "intra_dispersion",
    "isomorphism_degree",
    "language_collapse_degree",
    "ldam",
    "logit_adjustment",
    "nearest_simplex",
    "posthoc_adjustment",
    "rotation_stabilization",
    "text_anchoring",
]
