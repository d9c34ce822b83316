"""Regularizers: loss terms that are added to any prompt learner.

Write your own in ten lines. Put a file into this folder; its name is the regularizer's name. Nothing else
needs an edit: the file is found, its settings appear in the configuration, and its name can be part of a
method's name. In a package of your own, an entry point in the group `cpt_plugin.regularizers` does the same
(`docs/extending.md`). This is a complete `spread.py`::

    from cpt_plugin.functional import etf_separation
    from cpt_plugin.regularizers.base import FeatureBatch, Parts, Regularizer, register

    @register
    class Spread(Regularizer):
        name, config_node, paper = "spread", "SPREAD", "none"
        description = "one simplex over all classes"

        def __init__(self, weight: float = 0.1) -> None:  # the key SPREAD.WEIGHT
            self.weight = weight

        @property
        def active(self) -> bool:
            return self.weight > 0

        def compute(self, batch: FeatureBatch) -> Parts:
            one_cluster = batch.labels.new_zeros(batch.text.shape[-2])
            return {"spread": self.weight * etf_separation(batch.text, one_cluster, "pair_mean")}

Add `prepare`, `digest` and `describe` where something is made once a run (see `cpt.py`), `prepare_counts`,
`strength` and `state_dict` for class counts, a schedule and what training changes (see `cptx.py`). Names of parts
should be unique over all regularizers, because several can be used together.
"""

from __future__ import annotations

from cpt_plugin.regularizers.base import (
    REGISTRY,
    FeatureBatch,
    Parts,
    Regularizer,
    checked_parts,
    register,
    total,
)

__all__ = [
    "REGISTRY",
    "FeatureBatch",
    "Parts",
    "Regularizer",
    "available",
    "build",
    "checked_parts",
    "names",
    "register",
    "total",
]

available = REGISTRY.available
build = REGISTRY.build
names = REGISTRY.names

available()
