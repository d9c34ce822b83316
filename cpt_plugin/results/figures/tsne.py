"""t-SNE of image and text features of a few classes, from the most frequent to the rarest of those trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpt_plugin.errors import ConfigError
from cpt_plugin.results.features import Features
from cpt_plugin.results.figures.panels import Comparison
from cpt_plugin.results.figures.style import BLACK, COLORS, MARKERS, REMEDY, Drawing, finish, label, new_figure, stem_of

SEED = 0
_IMAGES_A_CLASS = 40


def draw(comparisons: Sequence[Comparison]) -> list[Drawing]:
    """A figure for each comparison: a map for each of its panels."""
    return [_draw(one) for one in comparisons]


def chosen(features: Features) -> list[int]:
    """At most as many classes as there are colors, evenly over the frequency ranks, the most frequent first."""
    by_rank = sorted(range(len(features.ranks)), key=features.ranks.__getitem__)
    places = np.linspace(0, len(by_rank) - 1, min(len(COLORS), len(by_rank))).round().astype(int)
    return [by_rank[place] for place in places]


def embed(features: Features, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t-SNE of both modalities together, each centered on its own mean: images (n, 2), their classes, texts (C, 2).

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ConfigError(f"t-SNE needs scikit-learn ({error}): {REMEDY}") from error
    rows = np.concatenate([np.flatnonzero(features.labels == k)[:_IMAGES_A_CLASS] for k in classes])
    points = np.concatenate([_centered(features.image[rows]), _centered(features.text[list(classes)])])
    perplexity = min(30.0, (len(points) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", metric="euclidean", random_state=SEED)
    flat = method.fit_transform(points.astype(np.float32))
    return flat[: len(rows)], features.labels[rows], flat[len(rows) :]


def _draw(comparison: Comparison) -> Drawing:
    classes = chosen(comparison.any)
    names = [label(comparison.any.class_names[k]) for k in classes]
    columns = min(2, len(comparison.panels))
    rows = -(-len(comparison.panels) // columns)
    figure, grid = new_figure(rows, columns, 0.9 + 2.6 * rows)
    panels = [axes for line in grid for axes in line]
    for axes, (title, features) in zip(panels, comparison.panels.items(), strict=False):
        images, labels, texts = embed(features, classes)
        for k, name, color, marker, text in zip(classes, names, COLORS, MARKERS, texts, strict=False):
            own = images[labels == k]
            axes.plot(own[:, 0], own[:, 1], linestyle="", marker=marker, color=color, markersize=3, alpha=0.6,
                      label=name)  # fmt: skip
            axes.plot(*text, linestyle="", marker=marker, color=color, markersize=9, markeredgewidth=1.4,
                      markeredgecolor="white" if color == BLACK else BLACK, zorder=4)  # fmt: skip
        axes.set_title(label(title))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.06)
    for axes in panels[len(comparison.panels) :]:
        axes.set_axis_off()
    heading, order = _order(comparison.any)
    handles, labels_shown = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels_shown, loc="outside right center", markerscale=1.6, title=heading, title_fontsize=7)
    caption = (
        f"t-SNE of the image features (small) and text features (large, outlined) of {len(classes)} of "
        f"{len(comparison.any.class_names)} classes, {order}; each modality is "
        f"centered on its own mean; up to {_IMAGES_A_CLASS} test images a class, seed {SEED}. Distances between "
        "panels mean nothing."
    )
    title = f"Image and text features: {comparison.title}"
    return finish(figure, stem_of("tsne", *comparison.stem), title, [caption])


def _order(features: Features) -> tuple[str, str]:
    """How the classes are ordered: above the legend, and in the caption."""
    if not features.class_counts:
        return "classes", "none of which was trained on"
    doubt = " by the schedule (the record does not tell what the data held)" if features.by_schedule else ""
    return "frequent to rare", f"from the most to the least training images{doubt}"


def _centered(rows: np.ndarray) -> np.ndarray:
    offsets = rows - rows.mean(0)
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    return np.asarray(offsets / np.where(norms > 0, norms, 1.0))
