"""Loss functions: tensors in, a scalar out, no state. Raw features go in; normalization happens inside."""

from cpt_plugin.functional.convergence import class_convergence
from cpt_plugin.functional.etf import ClusterBuckets, etf_separation
from cpt_plugin.functional.rotation import rotation_stabilization

__all__ = ["ClusterBuckets", "class_convergence", "etf_separation", "rotation_stabilization"]
