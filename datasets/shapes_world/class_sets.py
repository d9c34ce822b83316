"""Class sets: named lists of classes, in an order fixed by a private seed.

A class names one to three attributes; the others are drawn at random for each image. The first half of a set
(``ceil(K / 2)`` classes) is *base*, the rest *new*; the order is shuffled until both halves hold every word
the set uses, so both cover the semantic groups of :mod:`vocabulary`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from datasets.shapes_world.vocabulary import COLORS, SHAPES, TEXTURES

_SHAPES_USED = ("circle", "ring", "triangle", "square", "star", "cross", "heart", "flower")
_OTHER_SHAPES = tuple(shape for shape in SHAPES if shape not in _SHAPES_USED)
_COLORS_USED = ("red", "yellow", "green", "blue", "purple", "pink", "white", "black")
_OTHER_COLORS = ("orange", "brown", "teal", "gray", "red", "blue", "pink", "black")
_ORDER_SEED = 20260
_TRIPLES = 48


@dataclass(frozen=True)
class ClassSpec:
    """One class: the words it fixes; None leaves the attribute free."""

    shape: str | None = None
    texture: str | None = None
    color: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The fixed words, in reading order."""
        return tuple(word for word in (self.color, self.texture, self.shape) if word)

    @property
    def name(self) -> str:
        """The class name, for example ``red striped star`` or ``red object``."""
        return " ".join((*self.words, *(() if self.shape else ("object",))))


def _texture_shape(shapes: tuple[str, ...] = _SHAPES_USED) -> list[ClassSpec]:
    return [ClassSpec(shape=shape, texture=texture) for shape in shapes for texture in TEXTURES]


def _color_shape() -> list[ClassSpec]:
    shapes = ("oval", "crescent", "diamond", "square", "arrow", "gear", "house", "heart")
    return [ClassSpec(shape=shape, color=color) for shape in shapes for color in _COLORS_USED[:6]]


def _color_texture() -> list[ClassSpec]:
    return [ClassSpec(texture=texture, color=color) for texture in TEXTURES for color in _COLORS_USED]


def _triples(
    shapes: tuple[str, ...] = _SHAPES_USED, colors: tuple[str, ...] = _COLORS_USED
) -> list[ClassSpec]:
    """A design in which every shape and color has 6 classes, every texture 8, and no pair repeats often."""
    chosen = []
    for index in range(_TRIPLES):
        row, column = divmod(index, len(TEXTURES))
        color = colors[(3 * row + column) % len(colors)]
        chosen.append(ClassSpec(shape=shapes[row], texture=TEXTURES[column], color=color))
    return chosen


def _shapes() -> list[ClassSpec]:
    return [ClassSpec(shape=shape) for shape in SHAPES]


def _colors() -> list[ClassSpec]:
    return [ClassSpec(color=color) for color in COLORS]


_MAKERS = {
    "triples": _triples,
    "texture_shape": _texture_shape,
    "color_shape": _color_shape,
    "color_texture": _color_texture,
    "shapes": _shapes,
    "colors": _colors,
    "other_triples": lambda: _triples(_OTHER_SHAPES, _OTHER_COLORS),
    "other_texture_shape": lambda: _texture_shape(_OTHER_SHAPES),
}


def _halves_cover(classes: list[ClassSpec]) -> bool:
    middle = (len(classes) + 1) // 2
    halves = [{word for spec in half for word in spec.words} for half in (classes[:middle], classes[middle:])]
    return halves[0] == halves[1]


@cache
def class_set(name: str) -> tuple[ClassSpec, ...]:
    """Return the classes of a set in label order.

    Raises:
        KeyError: the set is unknown (:mod:`cpt_plugin.worlds` checks names and says which is nearest).
    """
    classes = _MAKERS[name]()
    order = random.Random(_ORDER_SEED)
    order.shuffle(classes)
    if name not in ("shapes", "colors"):
        while not _halves_cover(classes):
            order.shuffle(classes)
    return tuple(classes)
