"""Semantic clusters: a map that depends on names and features only, and never breaks."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpt_plugin.clusters import SemanticClusters
from cpt_plugin.errors import ClusterError

pytest.importorskip("faiss", reason="clusters need FAISS")

PROPERTY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def blobs(
    per_group: int, groups: int, width: int = 16, seed: int = 0
) -> tuple[torch.Tensor, list[str], list[int]]:
    """Well separated groups of directions, classes in random order: features, names, group of each class."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(groups), per_group))
    features = 10 * np.eye(width)[group] + 0.1 * rng.normal(size=(len(group), width))
    return torch.tensor(features).float(), [f"class {i:03d}" for i in range(len(group))], group.tolist()


def partition(clusters: SemanticClusters) -> set[frozenset[str]]:
    return {frozenset(names) for names in clusters.members()}


def test_finds_well_separated_groups() -> None:
    features, names, group = blobs(per_group=5, groups=6)
    clusters = SemanticClusters.fit(features, names, num_clusters=6)
    expected = {frozenset(n for n, g in zip(names, group, strict=True) if g == wanted) for wanted in range(6)}
    assert partition(clusters) == expected
    assert clusters.sizes == (5,) * 6
    assert clusters.dropped == 0


def test_clusters_are_numbered_in_order_of_class_name() -> None:
    features, names, _ = blobs(per_group=4, groups=5)
    clusters = SemanticClusters.fit(features, names, num_clusters=5)
    first_seen = list(dict.fromkeys(clusters.assignment.tolist()))  # the names are in alphabetical order here
    assert first_seen == list(range(5))


@pytest.mark.parametrize(
    ("classes", "size", "expected"),
    [(500, 16, 32), (50, 16, 4), (5, 16, 1), (24, 16, 2), (17, 8, 3), (16, 16, 1)],
)
def test_number_of_clusters_follows_the_cluster_size(classes: int, size: int, expected: int) -> None:
    features = torch.randn(classes, 8, generator=torch.Generator().manual_seed(0))
    names = [str(i) for i in range(classes)]
    assert SemanticClusters.fit(features, names, None, size).num_clusters == expected


@st.composite
def any_features(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    """Features that may repeat, vanish, be tiny, huge or half precision; M; a seed."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    classes = draw(st.integers(1, 24))
    width = draw(st.integers(1, 6))
    features = rng.normal(size=(classes, width)) * 10.0 ** draw(st.integers(-4, 4))
    kind = draw(st.sampled_from(["distinct", "duplicates", "zeros", "all equal"]))
    if kind == "duplicates":
        features = features[rng.integers(0, max(1, classes // 3), size=classes)]
    if kind == "zeros":
        features[rng.random(classes) < 0.5] = 0
    if kind == "all equal":
        features[:] = features[0]
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.float16]))
    return torch.tensor(features).to(dtype), draw(st.integers(1, classes)), seed


@given(any_features())
@PROPERTY
def test_never_breaks_and_always_covers_every_class(case: tuple[torch.Tensor, int, int]) -> None:
    features, wanted, _ = case
    features = torch.nan_to_num(features)  # float16 overflow
    names = [f"n{i}" for i in range(len(features))]
    clusters = SemanticClusters.fit(features, names, wanted)
    assert clusters.assignment.shape == (len(features),)
    assert clusters.assignment.dtype == torch.int64
    assert clusters.num_clusters == len(clusters.sizes) == wanted - clusters.dropped
    assert torch.bincount(clusters.assignment).tolist() == list(clusters.sizes)
    assert min(clusters.sizes) >= 1
    assert sum(clusters.sizes) == len(features)
    assert sorted(chain.from_iterable(clusters.members())) == sorted(names)
    assert np.isfinite(clusters.objective)


@given(any_features())
@PROPERTY
def test_does_not_depend_on_the_order_of_the_rows(case: tuple[torch.Tensor, int, int]) -> None:
    features, wanted, seed = case
    features = torch.nan_to_num(features)
    names = [f"n{i}" for i in range(len(features))]
    order = list(range(len(names)))
    random.Random(seed).shuffle(order)
    straight = SemanticClusters.fit(features, names, wanted)
    shuffled = SemanticClusters.fit(features[order], [names[i] for i in order], wanted)
    assert torch.equal(shuffled.assignment, straight.assignment[order])
    assert shuffled.digest == straight.digest
    assert shuffled.objective == straight.objective
    assert shuffled.sizes == straight.sizes


def test_objective_is_the_sum_of_squared_distances_to_the_cluster_means() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    clusters = SemanticClusters.fit(features, [f"{i:02d}" for i in range(30)], num_clusters=4)
    expected = 0.0
    for cluster in range(4):
        rows = [row / np.linalg.norm(row) for row in features[clusters.assignment == cluster].numpy()]
        expected += sum(((row - np.mean(rows, axis=0)) ** 2).sum() for row in rows)
    assert clusters.objective == pytest.approx(expected, rel=1e-6)


def test_is_as_good_as_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.cluster", reason="compares with scikit-learn")
    features, names, _ = blobs(per_group=10, groups=12, seed=3)
    features = features + 2 * torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    ours = SemanticClusters.fit(features, names, num_clusters=12).objective
    theirs = sklearn.KMeans(12, n_init=10, random_state=0).fit(
        torch.nn.functional.normalize(features).numpy()
    )
    assert ours <= 1.02 * theirs.inertia_


def test_objective_falls_with_the_number_of_clusters_to_zero_at_one_each() -> None:
    features, names, _ = blobs(per_group=4, groups=8)
    objectives = [SemanticClusters.fit(features, names, m).objective for m in (1, 2, 4, 8, 32)]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] == 0.0


def test_spherical_differs_only_in_the_centroids_and_still_finds_the_groups() -> None:
    features, names, _ = blobs(per_group=5, groups=6)
    plain = SemanticClusters.fit(features, names, num_clusters=6)
    assert partition(SemanticClusters.fit(features, names, num_clusters=6, spherical=True)) == partition(
        plain
    )


def test_length_of_the_features_does_not_matter_even_where_squares_overflow() -> None:
    features, names, _ = blobs(per_group=5, groups=3)
    expected = SemanticClusters.fit(features, names, 3).digest
    for scale in (1e-30, 1e25):
        assert SemanticClusters.fit(features * scale, names, 3).digest == expected


def test_digest_identifies_names_and_map() -> None:
    features, names, _ = blobs(per_group=3, groups=4)
    digest = SemanticClusters.fit(features, names, 4).digest
    assert len(digest) == 64
    assert SemanticClusters.fit(features, names, 4).digest == digest
    assert SemanticClusters.fit(features, names, 3).digest != digest
    assert SemanticClusters.fit(features, [name + "s" for name in names], 4).digest != digest


def test_seed_is_private_and_no_global_random_state_moves() -> None:
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    names = [str(i) for i in range(60)]
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first = SemanticClusters.fit(features, names, 8, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(99)
    assert SemanticClusters.fit(features, names, 8, seed=5).digest == first.digest
    others = {SemanticClusters.fit(features, names, 8, seed=seed).digest for seed in range(5)}
    assert len(others) > 1


def test_prints_no_warning_with_few_or_many_points_a_centroid(capfd: pytest.CaptureFixture[str]) -> None:
    for classes, wanted in ((3, 2), (10, 10), (2000, 2)):
        features = torch.randn(classes, 4, generator=torch.Generator().manual_seed(0))
        SemanticClusters.fit(features, [str(i) for i in range(classes)], wanted)
    assert capfd.readouterr() == ("", "")


def test_uses_every_point_and_no_sample_of_them() -> None:
    """FAISS trains on 256 points a centroid unless told otherwise; a sample misses most single outliers."""
    names = [f"{i:04d}" for i in range(3000)]
    for outlier in (0, 1234, 2999):
        features = torch.tensor([[1.0, 0.0]]).repeat(3000, 1)
        features[outlier] = torch.tensor([0.0, 1.0])
        clusters = SemanticClusters.fit(features, names, num_clusters=2)
        assert sorted(clusters.sizes) == [1, 2999]


def test_a_hundred_thousand_points() -> None:
    features = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(0))
    clusters = SemanticClusters.fit(features, [str(i) for i in range(100_000)], num_clusters=3)
    assert sum(clusters.sizes) == 100_000


def test_an_empty_cluster_is_dropped_and_reported() -> None:
    clusters = SemanticClusters.fit(torch.ones(6, 3), list("abcdef"), num_clusters=4)
    assert clusters.num_clusters == 1
    assert clusters.sizes == (6,)
    assert clusters.dropped == 3


@pytest.mark.parametrize("alike", [True, False])
def test_classes_of_one_name_are_kept_apart_whatever_their_order(alike: bool) -> None:
    """ImageNet has two classes "missile" and two "sunglasses"; their features are alike in a template."""
    features, names, group = blobs(per_group=5, groups=6)
    twins = [i for i, g in enumerate(group) if g == group[0]][:2] if alike else [group.index(0), group.index(5)]
    names[twins[1]] = names[twins[0]] = "missile"
    if alike:
        features[twins[1]] = features[twins[0]]
    straight = SemanticClusters.fit(features, names, num_clusters=6)
    assert (straight.assignment[twins[0]] == straight.assignment[twins[1]]) == alike
    assert straight.sizes == (5,) * 6
    assert sum(members.count("missile") for members in straight.members()) == 2
    for seed in range(5):
        order = list(range(len(names)))
        random.Random(seed).shuffle(order)
        shuffled = SemanticClusters.fit(features[order], [names[i] for i in order], num_clusters=6)
        assert torch.equal(shuffled.assignment, straight.assignment[order])
        assert shuffled.digest == straight.digest


ONES = torch.eye(3)


@pytest.mark.parametrize(
    ("features", "names", "options", "message"),
    [
        (ONES, ["a", "b", "c"], {"num_clusters": 4}, "4 clusters asked for but there are only 3 classes"),
        (ONES, ["a", "b", "c"], {"num_clusters": 0}, "number of clusters .* whole number in 1 .. 2.31 - 1, got 0"),
        (ONES, ["a", "b", "c"], {"num_clusters": -1}, "number of clusters .* got -1"),
        (ONES, ["a", "b", "c"], {"cluster_size": 0}, "size of clusters must be a whole number in 1 .. 2.31 - 1, got 0"),
        (ONES, ["a", "b", "c"], {"num_clusters": 1.5}, "whole number in 1 .. 2.31 - 1, got 1.5"),
        (ONES, ["a", "b", "c"], {"seed": -1}, "seed of the clusters must be a whole number in 0 .. 2.31 - 1, got -1"),
        (ONES, ["a", "b", "c"], {"seed": 2**31}, "got 2147483648"),
        (ONES, ["a", "b"], {}, r"2 class names for \(3, 3\)"),
        (torch.zeros(0, 3), [], {}, "nothing to cluster"),
        (torch.zeros(3, 0), ["a", "b", "c"], {}, "nothing to cluster"),
        (torch.zeros(3), ["a", "b", "c"], {}, r"\(K, d\), got torch.float32 \(3,\)"),
        (torch.eye(3).long(), ["a", "b", "c"], {}, "got torch.int64"),
        ([[1.0]], ["a"], {}, "must be a tensor"),
        (torch.tensor([[1.0], [float("nan")]]), ["a", "b"], {}, "class 'b' holds NaN or infinity"),
        (torch.tensor([[float("inf")], [1.0]]), ["a", "b"], {}, "class 'a' holds NaN or infinity"),
    ],
)
def test_refuses_with_a_reason(features: torch.Tensor, names: list[str], options: dict, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        SemanticClusters.fit(features, names, **options)


def test_missing_faiss_is_named_and_importing_the_module_does_not_load_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = "import sys, cpt_plugin.clusters, cpt_plugin.loss; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ClusterError, match="pip install faiss-cpu"):
        SemanticClusters.fit(ONES, ["a", "b", "c"], 2)


def test_the_gpu_is_used_only_when_faiss_and_torch_both_see_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    asked: list[bool] = []
    plain = faiss.Kmeans

    def spy(*args: object, gpu: bool, **options: object) -> object:
        asked.append(gpu)
        return plain(*args, **options)

    monkeypatch.setattr(faiss, "Kmeans", spy)
    for torch_sees, faiss_sees in ((False, 0), (True, 0), (False, 1), (True, 1)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=torch_sees: answer)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda answer=faiss_sees: answer)
        SemanticClusters.fit(ONES, ["a", "b", "c"], 2)
    assert asked == [False, False, False, True]
