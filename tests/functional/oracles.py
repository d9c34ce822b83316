"""The CPT formulas by explicit loops over float64 numbers, independent of torch and of the implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Vectors = Sequence[Sequence[float]] | np.ndarray


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    length_a = math.sqrt(math.fsum(x * x for x in a))
    length_b = math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (length_a * length_b)


def etf(
    text: Vectors, assignment: Sequence[int], reduction: str = "frobenius", diagonal: bool = False
) -> float:
    """Printed form: ||C_m + (J - I) / (k_m - 1)||_F^2 entry by entry, with or without i = j."""
    clusters: dict[int, list[int]] = {}
    for index, cluster in enumerate(assignment):
        clusters.setdefault(int(cluster), []).append(index)
    sums, means = [], []
    for members in clusters.values():
        k = len(members)
        if k == 1:
            continue
        entries = []
        for i in members:
            for j in members:
                if i == j and diagonal:
                    entries.append(1.0)
                elif i != j:
                    entries.append((cosine(text[i], text[j]) + 1 / (k - 1)) ** 2)
        sums.append(math.fsum(entries))
        means.append(math.fsum(entries) / (k * (k - 1)))
    if not sums:
        return 0.0
    return math.fsum(sums) / len(clusters) if reduction == "frobenius" else math.fsum(means) / len(means)


def unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    return [x / length for x in vector]


def convergence(image: Vectors, text: Vectors, labels: Sequence[int]) -> float:
    per_class: dict[int, list[float]] = {}
    for feature, label in zip(image, labels, strict=True):
        pairs = zip(unit(feature), unit(text[label]), strict=True)
        per_class.setdefault(int(label), []).append(sum((f - g) ** 2 for f, g in pairs))
    return sum(sum(values) / len(values) for values in per_class.values()) / len(per_class)


def rotation(text: Vectors, frozen: Vectors) -> float:
    value = 0.0
    for g, anchor in zip(text, frozen, strict=True):
        value += sum(abs(a - b) for a, b in zip(unit(g), unit(anchor), strict=True))
    return value / len(text)


def simplex(k: int, dimension: int) -> np.ndarray:
    """k unit vectors in `dimension` >= k whose pairwise cosines are all -1 / (k - 1)."""
    vectors = np.zeros((k, dimension))
    vectors[:, :k] = np.eye(k) - 1 / k
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
