"""Attributes of the drawn world, their words, and the semantic groups they fall into."""

from __future__ import annotations

SHAPE_GROUPS: dict[str, tuple[str, ...]] = {
    "round": ("circle", "oval", "ring", "crescent"),
    "polygon": ("triangle", "square", "diamond", "pentagon"),
    "spiky": ("star", "cross", "arrow", "gear"),
    "pictorial": ("heart", "flower", "house", "drop"),
}
TEXTURE_GROUPS: dict[str, tuple[str, ...]] = {
    "calm": ("plain", "split"),
    "grid": ("checkered", "dotted"),
    "line": ("striped", "spiral"),
}
COLOR_GROUPS: dict[str, tuple[str, ...]] = {
    "warm": ("red", "orange", "yellow", "brown"),
    "cool": ("green", "teal", "blue", "purple"),
    "pale": ("pink", "white", "gray", "black"),
}

COLOR_HSV: dict[str, tuple[float, float, float]] = {
    "red": (0.00, 0.85, 0.85),
    "orange": (0.075, 0.92, 0.95),
    "yellow": (0.155, 0.85, 0.95),
    "brown": (0.07, 0.70, 0.42),
    "green": (0.33, 0.75, 0.65),
    "teal": (0.48, 0.75, 0.60),
    "blue": (0.62, 0.85, 0.85),
    "purple": (0.76, 0.70, 0.62),
    "pink": (0.92, 0.42, 0.98),
    "white": (0.0, 0.0, 0.97),
    "gray": (0.0, 0.0, 0.50),
    "black": (0.0, 0.0, 0.07),
}

SHAPES: tuple[str, ...] = tuple(word for group in SHAPE_GROUPS.values() for word in group)
TEXTURES: tuple[str, ...] = tuple(word for group in TEXTURE_GROUPS.values() for word in group)
COLORS: tuple[str, ...] = tuple(word for group in COLOR_GROUPS.values() for word in group)
STYLES: tuple[str, ...] = ("clean", "blurry", "noisy", "dark", "faded", "pixelated")
GENERIC_NOUNS: tuple[str, ...] = ("object", "thing", "shape")
"""Words for an object whose shape is not named."""


def attribute_words() -> tuple[str, ...]:
    """Return every word that can stand in a class name or name a render style."""
    return SHAPES + TEXTURES + COLORS + STYLES + GENERIC_NOUNS
