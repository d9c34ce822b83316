"""The CPT regularizer: which parts it computes, from what, and what it says about itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cpt_plugin.errors import ClusterError, ConfigError, FeatureError
from cpt_plugin.functional import _checks
from cpt_plugin.regularizers import FeatureBatch, cpt
from cpt_plugin.regularizers.cpt import CPT
from tests.functional import oracles

pytest.importorskip("faiss", reason="clusters need FAISS")

NAMES = [f"class {i:02d}" for i in range(20)]
FROZEN = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batch(**changes: Any) -> FeatureBatch:
    """Perturbed prompts, so that the rotation term is away from its kinks."""
    generator = torch.Generator().manual_seed(1)
    values = {
        "text": FROZEN + 0.3 * torch.randn(FROZEN.shape, generator=generator, dtype=torch.float64),
        "image": torch.randn(6, 12, generator=generator, dtype=torch.float64),
        "labels": torch.tensor([3, 19, 3, 0, 7, 7]),
    }
    return FeatureBatch(**{**values, **changes})


def prepared(**settings: Any) -> CPT:
    regularizer = CPT(**settings)
    regularizer.prepare(FROZEN, NAMES)
    return regularizer


def test_parts_are_the_weighted_formulas() -> None:
    regularizer, step = prepared(weight_etf=0.5, weight_cc=2.0, weight_rs=0.25, cluster_size=5), batch()
    text, image, labels = step.text.tolist(), step.image.tolist(), step.labels.tolist()
    assignment = regularizer.clusters.assignment.tolist()
    expected = {
        "etf": 0.5 * oracles.etf(text, assignment),
        "cc": 2.0 * oracles.convergence(image, text, labels),
        "rs": 0.25 * oracles.rotation(text, FROZEN.tolist()),
    }
    assert {name: part.item() for name, part in regularizer.compute(step).items()} == pytest.approx(
        expected, rel=1e-12
    )


def test_reduction_reaches_the_etf_term() -> None:
    regularizer, step = prepared(etf_reduction="pair_mean", num_clusters=3), batch()
    expected = 0.25 * oracles.etf(step.text.tolist(), regularizer.clusters.assignment.tolist(), "pair_mean")
    assert regularizer.compute(step)["etf"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kept", [(), ("etf",), ("cc",), ("rs",), ("etf", "rs"), ("etf", "cc", "rs")])
def test_only_parts_of_positive_weight_are_computed(
    kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = {"etf": "etf_separation", "cc": "class_convergence", "rs": "rotation_stabilization"}
    for part in functions.keys() - set(kept):
        monkeypatch.delattr(cpt, functions[part])
    regularizer = prepared(**{f"weight_{part}": 0.1 if part in kept else 0.0 for part in functions})
    assert tuple(regularizer.compute(batch())) == kept
    assert regularizer.active == bool(kept)
    assert (regularizer.clusters is not None) == ("etf" in kept)


def test_gradcheck_of_the_total() -> None:
    regularizer = prepared(cluster_size=5)
    text, image = batch().text.requires_grad_(), batch().image.requires_grad_()

    def loss(g: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return sum(regularizer.compute(batch(text=g, image=f)).values())

    assert torch.autograd.gradcheck(loss, (text, image))


def test_per_image_text_gives_the_mean_over_images() -> None:
    regularizer = prepared(weight_cc=0.0)
    texts = torch.stack([batch().text, FROZEN.flip(0), FROZEN + 1])
    images, labels = torch.ones(3, 12, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    together = regularizer.compute(batch(text=texts, image=images, labels=labels))
    for name in ("etf", "rs"):
        alone = [regularizer.compute(batch(text=text))[name].item() for text in texts]
        assert together[name].item() == pytest.approx(sum(alone) / 3, rel=1e-12)


def test_half_precision_under_autocast_is_computed_in_float32() -> None:
    regularizer = prepared()
    exact = regularizer.compute(batch())
    step = batch(text=batch().text.bfloat16(), image=batch().image.bfloat16())
    frozen = CPT()
    frozen.prepare(FROZEN.half(), NAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = frozen.compute(step)
    for name, part in parts.items():
        assert part.dtype == torch.float32
        assert part.item() == pytest.approx(exact[name].item(), rel=0.02)


def test_prepare_takes_a_copy_and_makes_clusters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = FROZEN.clone()
    regularizer = CPT()
    regularizer.prepare(frozen, NAMES)
    before = regularizer.compute(batch())["rs"].item()
    frozen.zero_()
    monkeypatch.delattr(cpt, "SemanticClusters")
    assert regularizer.compute(batch())["rs"].item() == before


def test_describe_names_clusters_sizes_objective_and_weights() -> None:
    regularizer = prepared(num_clusters=3)
    text = "\n".join(regularizer.describe())
    sizes = sorted(regularizer.clusters.sizes)
    assert f"3 clusters over 20 classes, sizes min {sizes[0]} / median {sizes[1]} / max {sizes[2]}" in text
    assert f"objective {regularizer.clusters.objective:.4f}" in text
    assert "etf 0.25, cc 0.15, rs 0.1; ETF reduction frobenius" in text
    assert "global" not in text


def test_describe_warns_of_a_global_etf_and_of_one_that_cannot_be_reached() -> None:
    text = "\n".join(prepared(cluster_size=20).describe())
    assert "one cluster holds all 20 classes: the ETF is global" in text
    assert "20 classes cannot form a simplex ETF in 12 dimensions" in text


def test_describe_counts_empty_clusters_and_singletons() -> None:
    regularizer = CPT(num_clusters=4)
    regularizer.prepare(torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]]), list("abcdef"))
    text = "\n".join(regularizer.describe())
    assert "2 clusters ended empty" in text
    assert "1 clusters hold one class" in text
    assert CPT().describe() == ["CPT: weights etf 0.25, cc 0.15, rs 0.1; ETF reduction frobenius"]


def test_digest_is_the_map_s_hash_or_that_of_the_names() -> None:
    assert CPT().digest() == ""
    assert prepared().digest() == prepared().clusters.digest
    without = prepared(weight_etf=0.0)
    other = CPT(weight_etf=0.0)
    other.prepare(FROZEN, NAMES[::-1])
    assert len({without.digest(), other.digest(), prepared().digest(), ""}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_etf": -0.1}, "CPT.WEIGHT_ETF must be a finite number >= 0, got -0.1"),
        ({"weight_cc": float("nan")}, "CPT.WEIGHT_CC must be a finite number >= 0, got nan"),
        ({"weight_rs": float("inf")}, "CPT.WEIGHT_RS must be a finite number >= 0, got inf"),
        ({"weight_rs": "1"}, "CPT.WEIGHT_RS must be a finite number >= 0, got '1'"),
        ({"etf_reduction": "mean"}, "CPT.ETF_REDUCTION must be frobenius or pair_mean, got 'mean'"),
        ({"cluster_size": 0}, "CPT.CLUSTER_SIZE must be a whole number in 1 .. "),
        ({"cluster_size": 2.5}, "CPT.CLUSTER_SIZE must be a whole number"),
        ({"num_clusters": -1}, "CPT.NUM_CLUSTERS must be a whole number in 0 .. "),
        ({"cluster_seed": 2**31}, "CPT.CLUSTER_SEED must be a whole number in 0 .. "),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CPT(**settings)


def test_refuses_features_that_do_not_fit() -> None:
    with pytest.raises(FeatureError, match=r"before CPT\.prepare"):
        CPT().compute(batch())
    with pytest.raises(FeatureError, match=r"frozen_text \(20, 12\) must be \(K, d\), K = 3"):
        CPT().prepare(FROZEN, NAMES[:3])
    with pytest.raises(ClusterError, match="30 clusters asked for"):
        CPT(num_clusters=30).prepare(FROZEN, NAMES)
    with pytest.raises(FeatureError, match=r"frozen_text \(20, 12\) does not match text \(7, 12\)"):
        prepared(weight_rs=0.0).compute(batch(text=FROZEN[:7]))
    with pytest.raises(FeatureError, match="text must have shape"):
        prepared().compute(batch(text=FROZEN[0]))


def test_the_first_batch_is_checked_by_name_where_labels_are_not_read_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on an accelerator: the loss function itself does not look at the labels."""
    monkeypatch.setattr(_checks, "check_labels", lambda labels, num_classes: None)
    wrong = batch(labels=torch.tensor([0, 1, 2, 3, 4, 20]))
    with pytest.raises(FeatureError, match=r"label 20 is outside 0\.\.19"):
        prepared().compute(wrong)
    regularizer = prepared()
    regularizer.compute(batch())
    assert regularizer.compute(wrong)["cc"].isnan()
