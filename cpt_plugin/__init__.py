"""Cluster-aware neural-collapse prompt tuning (CPT, CVPR 2026) as a plug-in regularizer for CLIP prompt learners.

Importing the package costs nothing: each public name is loaded on first use, so command-line checks run
before torch is installed, and faiss, dassl, clip, torchvision and matplotlib are never loaded by accident.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "etf_separation": "cpt_plugin.functional",
    "class_convergence": "cpt_plugin.functional",
    "rotation_stabilization": "cpt_plugin.functional",
    "SemanticClusters": "cpt_plugin.clusters",
    "CPTLoss": "cpt_plugin.loss",
    "CPTHook": "cpt_plugin.hook",
    "CPTError": "cpt_plugin.errors",
}

__all__ = [
    "CPTError",
    "CPTHook",
    "CPTLoss",
    "SemanticClusters",
    "__version__",
    "class_convergence",
    "etf_separation",
    "rotation_stabilization",
]

if TYPE_CHECKING:
    from cpt_plugin.clusters import SemanticClusters
    from cpt_plugin.errors import CPTError
    from cpt_plugin.functional import class_convergence, etf_separation, rotation_stabilization
    from cpt_plugin.hook import CPTHook
    from cpt_plugin.loss import CPTLoss


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cpt_plugin' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
