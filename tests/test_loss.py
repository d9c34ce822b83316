"""CPTLoss in a training loop of one's own."""

from __future__ import annotations

import copy

import pytest
import torch

from cpt_plugin import CPTLoss
from cpt_plugin.errors import ClusterError, ConfigError, FeatureError
from cpt_plugin.regularizers import FeatureBatch
from cpt_plugin.regularizers.cpt import CPT

pytest.importorskip("faiss", reason="clusters need FAISS")

NAMES = [f"class {i}" for i in range(10)]
GENERATOR = torch.Generator().manual_seed(0)
FROZEN = torch.randn(10, 8, generator=GENERATOR)
TEXT = FROZEN + 0.2 * torch.randn(10, 8, generator=GENERATOR)
IMAGE = torch.randn(4, 8, generator=GENERATOR)
LABELS = torch.tensor([1, 9, 1, 0])


def test_total_is_the_sum_of_the_detached_parts_of_the_regularizer() -> None:
    options = {"weight_etf": 0.5, "weight_cc": 0.3, "weight_rs": 0.2, "num_clusters": 3, "cluster_seed": 4}
    loss, text = CPTLoss(FROZEN, NAMES, **options), TEXT.clone().requires_grad_()
    value, parts = loss(image=IMAGE, text=text, labels=LABELS)
    regularizer = CPT(**options)
    regularizer.prepare(FROZEN, NAMES)
    expected = regularizer.compute(FeatureBatch(TEXT, IMAGE, LABELS))
    assert list(parts) == ["etf", "cc", "rs"]
    assert all(torch.equal(parts[name], expected[name]) for name in parts)
    assert value.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)
    assert value.requires_grad
    assert not any(part.requires_grad for part in parts.values())
    assert loss.clusters.num_clusters == 3


def test_minimizing_it_separates_the_classes_and_stays_near_the_anchor() -> None:
    text = TEXT.clone().requires_grad_()
    loss, optimizer = CPTLoss(FROZEN, NAMES, num_clusters=2), torch.optim.SGD([text], lr=0.05)
    first = None
    for _ in range(200):
        optimizer.zero_grad()
        value, parts = loss(image=IMAGE, text=text, labels=LABELS)
        first = first or parts
        value.backward()
        optimizer.step()
    assert parts["etf"] < 0.7 * first["etf"]
    assert parts["rs"] < 0.5


def test_all_weights_zero_add_an_exact_zero() -> None:
    loss = CPTLoss(FROZEN, NAMES, weight_etf=0.0, weight_cc=0.0, weight_rs=0.0)
    value, parts = loss(image=IMAGE, text=TEXT, labels=LABELS)
    assert (value.item(), parts, loss.clusters) == (0.0, {}, None)


def test_is_rebuilt_bit_for_bit_and_has_nothing_to_save() -> None:
    loss = CPTLoss(FROZEN, NAMES, num_clusters=3)
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    expected, _ = loss(image=IMAGE, text=TEXT, labels=LABELS)
    for same in (CPTLoss(FROZEN, NAMES, num_clusters=3), copy.deepcopy(loss)):
        assert torch.equal(same(image=IMAGE, text=TEXT, labels=LABELS)[0], expected)


def test_follows_the_device_of_the_features() -> None:
    loss = CPTLoss(FROZEN, NAMES, num_clusters=3, weight_cc=0.0)
    value, _ = loss(image=IMAGE.to("meta"), text=TEXT.to("meta"), labels=LABELS.to("meta"))
    assert value.device.type == "meta"


def test_errors_reach_the_caller() -> None:
    with pytest.raises(ConfigError, match="WEIGHT_ETF"):
        CPTLoss(FROZEN, NAMES, weight_etf=-1)
    with pytest.raises(ClusterError, match="11 clusters"):
        CPTLoss(FROZEN, NAMES, num_clusters=11)
    with pytest.raises(FeatureError, match="label 10"):
        CPTLoss(FROZEN, NAMES)(image=IMAGE, text=TEXT, labels=torch.tensor([0, 10, 0, 0]))


def test_printing_it_shows_the_clusters() -> None:
    assert "3 clusters over 10 classes" in repr(CPTLoss(FROZEN, NAMES, num_clusters=3))


def test_parts_that_are_no_named_scalars_are_refused(monkeypatch):
    loss = CPTLoss(torch.eye(3), ["cat", "dog", "car"])
    monkeypatch.setattr(loss.regularizer, "compute", lambda batch: batch.text.sum())
    with pytest.raises(ConfigError, match=r"compute\(\) of the regularizer 'cpt'.* returned a tensor .*not a dict"):
        loss(image=torch.eye(3), text=torch.eye(3), labels=torch.arange(3))
