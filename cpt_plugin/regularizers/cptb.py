"""CPT with balanced weights: each term's gradient on the prompts is a fixed fraction of the main loss's (ours)."""

from __future__ import annotations

from cpt_plugin.regularizers.base import register
from cpt_plugin.regularizers.cpt import CPT


@register
class CPTB(CPT):
    """CPT's three terms, weighed by their gradients instead of the printed weights; all else as in :class:`CPT`.

    Args:
        rho_etf, rho_cc, rho_rs: length of each term's gradient as a fraction of the main loss's, finite and >= 0; a
            term of fraction 0 is not computed. The defaults come from a sweep on a prototype of the embedded world.
        rho_momentum: in 0 .. 1; 1 measures the gradients once, less keeps running averages of their lengths.
        etf_reduction, cluster_size, num_clusters, cluster_seed, template: as in :class:`CPT`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "cptb"
    paper = "CPT, CVPR 2026 (arXiv 2605.11939), with gradient-balanced weights of our own"
    description = "CPT's three terms, each with a gradient that is a fixed fraction of the main loss's"
    config_node = "CPTB"

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
    ) -> None:
        super().__init__(
            etf_reduction=etf_reduction,
            cluster_size=cluster_size,
            num_clusters=num_clusters,
            cluster_seed=cluster_seed,
            template=template,
            weighting="balanced",
            rho_etf=rho_etf,
            rho_cc=rho_cc,
            rho_rs=rho_rs,
            rho_momentum=rho_momentum,
        )
