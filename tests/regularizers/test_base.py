"""What every regularizer inherits."""

from __future__ import annotations

import pytest
import torch

from cpt_plugin.errors import ConfigError
from cpt_plugin.regularizers import total
from cpt_plugin.regularizers.cpt import CPT


def test_total_is_the_sum_of_the_parts_or_a_zero() -> None:
    parts = {"a": torch.tensor(1.5, requires_grad=True), "b": torch.tensor(2.0)}
    assert total(parts, torch.zeros(1)).item() == 3.5
    assert total(parts, torch.zeros(1)).requires_grad
    nothing = total({}, torch.zeros(3, 2, dtype=torch.float64))
    assert (nothing.item(), nothing.shape, nothing.dtype) == (0.0, (), torch.float64)


def test_from_config_keeps_defaults_and_takes_integers_for_floats() -> None:
    built = CPT.from_config({"WEIGHT_ETF": 1, "CLUSTER_SIZE": 4})
    assert built.weights == {"etf": 1.0, "cc": 0.15, "rs": 0.10}
    assert built.cluster_size == 4


def test_from_config_reads_a_yacs_node() -> None:
    yacs = pytest.importorskip("yacs.config", reason="the node type of the engine")
    node = yacs.CfgNode(CPT.defaults())
    node.merge_from_list(["WEIGHT_RS", 0.5, "ETF_REDUCTION", "pair_mean"])
    built = CPT.from_config(node)
    assert built.weights["rs"] == 0.5
    assert built.etf_reduction == "pair_mean"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"WEIGHT_ETV": 1.0}, "CPT.WEIGHT_ETV is unknown; did you mean 'WEIGHT_ETF'"),
        ({"WEIGHT_ETF": "1"}, "CPT.WEIGHT_ETF must be float, got str '1'"),
        ({"WEIGHT_ETF": True}, "CPT.WEIGHT_ETF must be float, got bool True"),
        ({"CLUSTER_SIZE": 2.5}, "CPT.CLUSTER_SIZE must be int, got float 2.5"),
        ({"TEMPLATE": None}, "CPT.TEMPLATE must be str, got NoneType"),
    ],
)
def test_from_config_refuses_unknown_keys_and_wrong_types(node: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CPT.from_config(node)
