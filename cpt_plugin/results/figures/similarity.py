"""Cosine similarities between the text features of all classes, ordered by cluster, with the effective rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpt_plugin.results.features import Features, effective_rank
from cpt_plugin.results.figures.panels import Comparison
from cpt_plugin.results.figures.style import Drawing, finish, label, new_figure, stem_of

_MOST_NAMES = 30


def draw(comparisons: Sequence[Comparison]) -> list[Drawing]:
    """A figure for each comparison: a heat map for each of its panels."""
    return [_draw(one) for one in comparisons]


def cosines(features: Features, order: Sequence[int]) -> np.ndarray:
    """(K, K) cosines between the text features in this order of classes."""
    text = features.text[list(order)].astype(np.float64)
    return text @ text.T


def cluster_order(features: Features) -> list[int]:
    """Classes by cluster, within a cluster the one with the most training images first."""
    return sorted(range(len(features.clusters)), key=lambda k: (features.clusters[k], features.ranks[k]))


def _draw(comparison: Comparison) -> Drawing:
    reference = comparison.clustered
    order = cluster_order(reference)
    maps = {name: cosines(one, order) for name, one in comparison.panels.items()}
    classes = len(order)
    named = classes <= _MOST_NAMES
    columns = min(2, len(maps))
    rows = -(-len(maps) // columns)
    figure, grid = new_figure(rows, columns, 0.8 + 2.85 * rows, sharey=True)
    panels = [axes for line in grid for axes in line]
    low = min(matrix.min() for matrix in maps.values())
    for axes, (name, matrix) in zip(panels, maps.items(), strict=False):
        image = axes.imshow(matrix, vmin=low, vmax=1.0, cmap="cividis", interpolation="nearest")
        axes.set_title(f"{label(name)}\neffective rank {effective_rank(matrix):.2f}")
        axes.grid(visible=False)
        for edge in np.flatnonzero(np.diff([reference.clusters[k] for k in order])) + 0.5:
            axes.axhline(edge, color="white", linewidth=1.2)
            axes.axvline(edge, color="white", linewidth=1.2)
        axes.set_xticks([])
        axes.set_yticks(range(classes) if named else [],
                        [label(reference.class_names[k]) for k in order] if named else [], fontsize=5.5)  # fmt: skip
        axes.tick_params(length=0)
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=panels, shrink=0.75, pad=0.01, label="cosine", aspect=25)
    clusters = len(set(reference.clusters))
    caption = (
        f"Cosines between the text features of {classes} classes, ordered by {clusters} cluster"
        f"{'s' if clusters > 1 else ''} of the frozen features (white lines). Effective rank: exp of the entropy of "
        "the matrix's singular values, scaled to sum 1."
    )
    title = f"Text features: {comparison.title}"
    return finish(figure, stem_of("similarity", *comparison.stem), title, [caption])
