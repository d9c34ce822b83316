"""Semantic clusters of classes: k-means on frozen text features, made once and then fixed."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpt_plugin._numbers import whole
from cpt_plugin.errors import ClusterError

ITERATIONS = 25
RESTARTS = 10
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class SemanticClusters:
    """A fixed map from class to cluster.

    Attributes:
        assignment: (K,) cluster id of every class, 0 .. num_clusters-1, numbered in the order in which the
            clusters first occur when the classes are sorted by name.
        num_clusters: M, the number of clusters that hold a class.
        sizes: number of classes of each cluster; they sum to K.
        objective: sum over classes of the squared distance of the unit feature to the mean of its cluster.
        digest: SHA-256 (hex) of the sorted pairs of class name and cluster id.
        class_names: the K names in the order of `assignment`.
        dropped: clusters that were asked for but ended empty, as happens with duplicate features.
    """

    assignment: Tensor
    num_clusters: int
    sizes: tuple[int, ...]
    objective: float
    digest: str
    class_names: tuple[str, ...]
    dropped: int = 0

    @classmethod
    def fit(
        cls,
        frozen_text: Tensor,
        class_names: Sequence[str],
        num_clusters: int | None = None,
        cluster_size: int = 16,
        seed: int = 0,
        spherical: bool = False,
    ) -> SemanticClusters:
        r"""Cluster the unit text features with FAISS k-means: 25 iterations, the best of 10 restarts.

        .. math::
            \min_{\pi} \sum_{c=1}^{K} \lVert \hat{\bar g}_c - \mu_{\pi(c)} \rVert_2^2

        with \hat{\bar g}_c the unit frozen text feature of class c, \pi the map from class to cluster and
        \mu_m the mean of cluster m. The result does not depend on the order of the rows (they are sorted by
        class name first, those of one name by their features), nor on any global random state, and draws nothing
        from it. FAISS uses the GPU when both it and torch see one.

        Args:
            frozen_text: (K, d) features of any length; computed in float32.
            class_names: K names. A name may occur more than once, as two do in ImageNet.
            num_clusters: M, 1 to K. None: max(1, ceil(K / cluster_size)).
            cluster_size: mean number of classes of a cluster aimed at when M is not given.
            seed: seed of the k-means alone, 0 .. 2^31 - 1.
            spherical: keep the centroids at unit length during the iterations.

        Raises:
            ClusterError: the features are not (K, d), not finite or not one a name; M < 1 or
                M > K; a number is out of range; or FAISS is missing.

        Source: CPT (CVPR 2026), algorithm step 1; M, restarts and row order are ours.
        """
        features, names = _checked_features(frozen_text, class_names)
        wanted = _number_of_clusters(len(names), num_clusters, cluster_size)
        seed = whole("the seed of the clusters", seed, 0, ClusterError)
        by_name = np.array(sorted(range(len(names)), key=lambda row: (names[row], features[row].tolist())))
        points = np.ascontiguousarray(_unit_rows(features[by_name]))
        found = _nearest(points, _centroids(points, wanted, seed, spherical))
        ids = _renumbered(found)
        assignment = np.empty_like(ids)
        assignment[by_name] = ids
        sizes = tuple(int(size) for size in np.bincount(ids))
        return cls(
            assignment=torch.from_numpy(assignment),
            num_clusters=len(sizes),
            sizes=sizes,
            objective=_objective(points, ids),
            digest=_digest(names, assignment),
            class_names=names,
            dropped=wanted - len(sizes),
        )

    def members(self) -> list[list[str]]:
        """Return the class names of every cluster, sorted."""
        lists: list[list[str]] = [[] for _ in self.sizes]
        for name, cluster in sorted(zip(self.class_names, self.assignment.tolist(), strict=True)):
            lists[cluster].append(name)
        return lists


def _checked_features(frozen_text: Tensor, class_names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(class_names, str):
        raise ClusterError(f"class names must be a list with a name for each class, got the text {class_names!r}")
    names = tuple(class_names)
    if not isinstance(frozen_text, Tensor):
        raise ClusterError(f"frozen text features must be a tensor (K, d), got {type(frozen_text).__name__}")
    shape = tuple(frozen_text.shape)
    if not frozen_text.dtype.is_floating_point or len(shape) != 2:
        raise ClusterError(
            f"frozen text features must be a floating-point tensor (K, d), got {frozen_text.dtype} {shape}"
        )
    if frozen_text.numel() == 0:
        raise ClusterError(f"there is nothing to cluster: frozen text features {shape} are empty")
    if len(names) != len(frozen_text):
        raise ClusterError(
            f"{len(names)} class names for {shape} frozen text features; give one for each row"
        )
    features = frozen_text.detach().to("cpu", torch.float64).numpy()
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ClusterError(
            f"the frozen text feature of class {names[int(finite.argmin())]!r} holds NaN or infinity; "
            "check the encoder's weights and precision"
        )
    return features, names


def _number_of_clusters(num_classes: int, num_clusters: int | None, cluster_size: int) -> int:
    size = whole("the size of clusters", cluster_size, 1, ClusterError)
    if num_clusters is None:
        return max(1, -(-num_classes // size))
    num_clusters = whole("the number of clusters (None follows from their size)", num_clusters, 1, ClusterError)
    if num_clusters > num_classes:
        raise ClusterError(f"{num_clusters} clusters asked for but there are only {num_classes} classes")
    return num_clusters


def _unit_rows(features: np.ndarray) -> np.ndarray:
    """Scale float64 rows to length 1, zero rows stay zero, and round them to float32."""
    largest = np.abs(features).max(axis=1, keepdims=True)
    features = features / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _centroids(points: np.ndarray, wanted: int, seed: int, spherical: bool) -> np.ndarray:
    """Train FAISS k-means; with these limits it neither subsamples the points nor warns that they are few."""
    faiss = _faiss()
    gpu = torch.cuda.is_available() and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    kmeans = faiss.Kmeans(
        points.shape[1],
        wanted,
        niter=ITERATIONS,
        nredo=RESTARTS,
        seed=seed,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
        gpu=gpu,
    )
    kmeans.train(points)
    centroids = np.asarray(kmeans.centroids, dtype=np.float64).reshape(wanted, points.shape[1])
    if not np.isfinite(centroids).all():
        raise ClusterError("k-means returned centroids that are not finite; please report the features")
    return centroids


def _faiss() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import faiss
        except ImportError as error:
            raise ClusterError("clusters need FAISS; install it with `pip install faiss-cpu`") from error
    return faiss


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the index of each point's nearest centroid (the first of equals), in bounded memory."""
    squares = (centroids**2).sum(axis=1)
    chunks = (points[start : start + _ROWS_AT_ONCE] for start in range(0, len(points), _ROWS_AT_ONCE))
    return np.concatenate([(squares - 2 * (chunk @ centroids.T)).argmin(axis=1) for chunk in chunks])


def _renumbered(found: np.ndarray) -> np.ndarray:
    """Number the clusters 0, 1, ... in the order in which they first occur."""
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _objective(points: np.ndarray, ids: np.ndarray) -> float:
    counts = np.bincount(ids)[:, None]
    means = np.zeros((len(counts), points.shape[1]))
    np.add.at(means, ids, points)
    return float(((points - (means / counts)[ids]) ** 2).sum())


def _digest(names: tuple[str, ...], assignment: np.ndarray) -> str:
    pairs = sorted(zip(names, assignment.tolist(), strict=True))
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()
